#include "trainer/data/column_powers.h"

#include <algorithm>
#include <set>

#include "trainer/data/imatrix_names.h"
#include "trainer/data/tensor_limits.h"

namespace nwc {
namespace {

bool is_matrix(const SourceTensor& tensor) {
  return tensor.shape.size() >= 2 && tensor.num_elements() != 0 && dtype_is_float(tensor.dtype);
}

Status does_not_fit(const ImatrixEntry& entry, const SourceTensor& tensor, const std::string& what) {
  return invalid_argument("the importance matrix's entry for " + quote_tensor(entry.name) + " has " + what + ", but " +
                          quote_tensor(tensor.name) + " has shape " + shape_text(tensor.shape) +
                          ": it is of another model; llama-imatrix makes one of this");
}

const ModelRecord* model_of(const ModelSource& source) { return source.model() ? &*source.model() : nullptr; }

bool is_head_name(const ModelSource& source, size_t tensor) {
  const std::vector<ImatrixName> names = imatrix_names(model_of(source), source.tensors()[tensor].name);
  return std::any_of(names.begin(), names.end(), [](const ImatrixName& name) {
    return name.tensor == "token_embd.weight" || name.tensor == "output.weight";
  });
}

/// The first few names, for a message.
std::string some_of(const std::vector<std::string>& names) {
  constexpr size_t kFew = 3;
  std::string out;
  for (size_t i = 0; i < std::min(kFew, names.size()); ++i) out += (i == 0 ? "" : ", ") + quote_tensor(names[i]);
  return names.size() > kFew ? out + ", ..." : out;
}

}  // namespace

Result<ColumnPowers> ColumnPowers::match(Imatrix imatrix, const ModelSource& source) {
  ColumnPowers out;
  out.imatrix_ = std::make_unique<const Imatrix>(std::move(imatrix));
  std::set<const ImatrixEntry*> used;
  for (size_t i = 0; i < source.tensors().size(); ++i) {
    NWC_ASSIGN_OR_RETURN(out.places_.emplace_back(), out.place_of(source, i));
    Place& place = out.places_.back();
    out.is_head_.push_back(is_head_name(source, i));
    if (place.entry != nullptr) {
      used.insert(place.entry);
      // An expert that no token went to has inputs of which nothing is known.
      NWC_ASSIGN_OR_RETURN(const std::vector<double> powers, out.load(place));
      if (std::none_of(powers.begin(), powers.end(), [](double p) { return p > 0; })) place.entry = nullptr;
    }
    if (place.entry == nullptr && is_matrix(source.tensors()[i])) out.uncovered_.push_back(source.tensors()[i].name);
  }
  out.unused_ = out.imatrix_->entries().size() - used.size();
  if (out.covered() == 0) {
    std::vector<std::string> names;
    for (const ImatrixEntry& e : out.imatrix_->entries()) names.push_back(e.name);
    return invalid_argument("the importance matrix is of none of the model's matrices: it has entries for " +
                            some_of(names) + ", the model has " +
                            (out.uncovered_.empty() ? "no matrices" : some_of(out.uncovered_)));
  }
  return out;
}

Result<ColumnPowers::Place> ColumnPowers::place_of(const ModelSource& source, size_t index) const {
  const SourceTensor& tensor = source.tensors()[index];
  if (!is_matrix(tensor)) return Place();
  for (const ImatrixName& name : imatrix_names(model_of(source), tensor.name)) {
    const ImatrixEntry* e = imatrix_->find(name.tensor);
    if (e == nullptr) continue;
    Place place{e, tensor.shape.back(), 0, 1};
    // A .dat file does not say how many matrices an entry is for.
    const uint64_t matrices = e->counts.size() > 1 ? e->counts.size() : std::max<uint64_t>(1, e->size / place.columns);
    if (e->size != matrices * place.columns)
      return does_not_fit(*e, tensor, std::to_string(e->size / e->counts.size()) + " columns");
    if (name.expert) {
      place.first = *name.expert;
      if (place.first >= matrices) return does_not_fit(*e, tensor, std::to_string(matrices) + " experts");
    } else if (matrices != 1) {
      place.parts = matrices;
      if (tensor.shape.size() != 3 || tensor.shape[0] != matrices)
        return does_not_fit(*e, tensor,
                            std::to_string(matrices) + " times " + std::to_string(place.columns) + " columns");
    }
    return place;
  }
  return Place();
}

Result<std::vector<double>> ColumnPowers::load(size_t tensor) const { return load(places_[tensor]); }

Result<std::vector<double>> ColumnPowers::load(const Place& place) const {
  std::vector<double> out(static_cast<size_t>(place.columns), 0.0);
  const std::vector<double>& counts = place.entry->counts;
  double seen = 0;
  for (uint64_t part = place.first; part < place.first + place.parts; ++part) {
    NWC_ASSIGN_OR_RETURN(const std::vector<float> powers,
                         imatrix_->read(*place.entry, part * place.columns, place.columns));
    // Which token goes to which expert decides how often an error counts.
    const double weight = counts.size() > 1 ? counts[static_cast<size_t>(part)] : 1;
    for (size_t c = 0; c < out.size(); ++c) out[c] += weight * static_cast<double>(powers[c]);
    seen += weight;
  }
  if (seen > 0) {
    for (double& p : out) p /= seen;
  }
  return out;
}

size_t ColumnPowers::covered() const {
  return static_cast<size_t>(
      std::count_if(places_.begin(), places_.end(), [](const Place& p) { return p.entry != nullptr; }));
}

}  // namespace nwc
