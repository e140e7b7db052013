#include "trainer/plan/model_plan.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <optional>
#include <string_view>

#include "trainer/data/name_pattern.h"

namespace nwc {
namespace {

constexpr uint64_t kMinSide = 8;  ///< half of a chunk: below, more than half of what is coded would be padding

constexpr uint32_t kNoRank = 14;  ///< of tensors of a layer that the model's description does not know

bool is_digit(char c) { return c >= '0' && c <= '9'; }

/// N of the first "layers.N." in a name.
std::optional<uint32_t> layer_number(std::string_view name) {
  static constexpr std::string_view kKey = "layers.";
  size_t at = name.find(kKey);
  if (at == std::string_view::npos) return std::nullopt;
  at += kKey.size();
  uint32_t n = 0;
  const size_t start = at;
  for (; at < name.size() && is_digit(name[at]) && at - start < 8; ++at)
    n = n * 10 + static_cast<uint32_t>(name[at] - '0');
  if (at == start || at >= name.size() || name[at] != '.') return std::nullopt;
  return n;
}

/// What a tensor is to the model, and in which layer.
struct Place {
  Role role = Role::kEmbedding;
  uint32_t layer = 0;
};
std::optional<Place> place_of(const ModelRecord& model, std::string_view name) {
  for (const TensorName& known : model.names.empty() ? llama_names() : model.names) {
    const std::optional<std::vector<uint32_t>> numbers = match_pattern(known.pattern, name);
    if (!numbers) continue;
    const uint32_t layer = numbers->empty() ? 0 : numbers->front();
    if (layer < model.num_layers) return Place{known.role, layer};
  }
  return std::nullopt;
}

/// The order in which a layer needs its tensors. A bias lies beside what it belongs to.
uint32_t rank_in_layer(Role role) {
  switch (role) {
    case Role::kAttentionNorm:
    case Role::kAttentionNormBias: return 0;
    case Role::kQ:
    case Role::kQBias:
    case Role::kQkv:
    case Role::kQkvBias: return 1;
    case Role::kK:
    case Role::kKBias: return 2;
    case Role::kV:
    case Role::kVBias: return 3;
    case Role::kQNorm:
    case Role::kKNorm: return 4;
    case Role::kOutput:
    case Role::kOutputBias: return 5;
    case Role::kAttentionPostNorm:
    case Role::kAttentionPostNormBias: return 6;
    case Role::kMlpNorm:
    case Role::kMlpNormBias: return 7;
    case Role::kRouter:
    case Role::kRouterBias:
    case Role::kSharedGate: return 8;
    case Role::kGate:
    case Role::kGateBias:
    case Role::kGateUp:
    case Role::kGateUpBias: return 9;
    case Role::kUp:
    case Role::kUpBias: return 10;
    case Role::kDown:
    case Role::kDownBias: return 11;
    case Role::kExpertGate:  // one expert's beside each other, by their names
    case Role::kExpertUp:
    case Role::kExpertGateUp:
    case Role::kExpertDown:
    case Role::kExpertGateUpBias:
    case Role::kExpertDownBias: return 12;
    case Role::kMlpPostNorm:
    case Role::kMlpPostNormBias: return 13;
    default: return kNoRank;
  }
}

/// The name up to and with its first component that is a number, else without its last component.
std::string layer_prefix(const std::string& name) {
  for (size_t begin = 0; begin < name.size();) {
    size_t end = name.find('.', begin);
    if (end == std::string::npos) end = name.size();
    if (end > begin && std::all_of(name.begin() + static_cast<ptrdiff_t>(begin),
                                   name.begin() + static_cast<ptrdiff_t>(end), is_digit)) {
      return name.substr(0, end);
    }
    begin = end + 1;
  }
  const size_t dot = name.rfind('.');
  return dot == std::string::npos ? name : name.substr(0, dot);
}

uint64_t count_rows(const std::vector<uint64_t>& shape, uint32_t split) {
  uint64_t m = 1;
  for (size_t i = 0; i < split; ++i) m *= shape[i];
  return m;
}

/// Empty if it is worth coding.
std::string why_not_coded(const SourceTensor& t, uint32_t split, uint64_t min_elements) {
  if (t.dtype > Dtype::kBf16) return std::string(dtype_name(t.dtype)) + " is not coded";
  if (t.shape.size() < 2) return "not a matrix";
  const uint64_t elements = t.num_elements(), least = std::max(min_elements, kMinSide * kMinSide);
  if (elements < least) return "fewer than " + std::to_string(least) + " elements";
  const uint64_t m = count_rows(t.shape, split), n = elements / m;
  if (std::min(m, n) < kMinSide) return "fewer than " + std::to_string(kMinSide) + (m < n ? " rows" : " columns");
  return "";
}

/// v is [any][num_levels][stride], or empty.
void pick_levels(uint32_t num_levels, std::span<const uint8_t> levels, size_t stride, std::vector<float>* v) {
  if (v->empty()) return;
  const size_t per_block = num_levels * stride;
  assert(v->size() % per_block == 0);
  std::vector<float> kept;
  for (size_t block = 0; block < v->size(); block += per_block) {
    for (const uint8_t level : levels) {
      const auto at = v->begin() + static_cast<ptrdiff_t>(block + level * stride);
      kept.insert(kept.end(), at, at + static_cast<ptrdiff_t>(stride));
    }
  }
  *v = std::move(kept);
}

}  // namespace

uint32_t choose_split(const std::vector<uint64_t>& shape) {
  uint32_t best = 1;
  uint64_t best_side = 0, elements = 1;
  if (std::find(shape.begin(), shape.end(), 0u) != shape.end()) return 1;
  for (const uint64_t d : shape) elements *= d;  // the loaders have checked that this does not overflow
  for (uint32_t split = 1; split < std::min<size_t>(shape.size(), kMaxSplit + 1); ++split) {
    const uint64_t m = count_rows(shape, split);
    const uint64_t side = std::min(m, elements / m);
    if (m > kMaxDimension || side < best_side) continue;
    best = split;
    best_side = side;
  }
  return best;
}

bool natural_less(const std::string& a, const std::string& b) {
  size_t i = 0, j = 0;
  while (i < a.size() && j < b.size()) {
    if (is_digit(a[i]) && is_digit(b[j])) {
      size_t p = i, q = j;
      while (p < a.size() && a[p] == '0') ++p;
      while (q < b.size() && b[q] == '0') ++q;
      size_t pe = p, qe = q;
      while (pe < a.size() && is_digit(a[pe])) ++pe;
      while (qe < b.size() && is_digit(b[qe])) ++qe;
      if (pe - p != qe - q) return pe - p < qe - q;
      if (const int order = a.compare(p, pe - p, b, q, qe - q); order != 0) return order < 0;
      i = pe;
      j = qe;
    } else {
      if (a[i] != b[j]) return static_cast<unsigned char>(a[i]) < static_cast<unsigned char>(b[j]);
      ++i;
      ++j;
    }
  }
  if (a.size() - i != b.size() - j) return a.size() - i < b.size() - j;
  return a < b;
}

std::vector<PlannedTensor> plan_model(const ModelSource& source, uint64_t min_elements) {
  const std::vector<SourceTensor>& tensors = source.tensors();
  std::vector<PlannedTensor> plan(tensors.size());
  std::vector<uint32_t> rank(tensors.size(), 0);
  std::vector<std::optional<Role>> roles(tensors.size());
  std::vector<size_t> by_name(tensors.size());
  std::iota(by_name.begin(), by_name.end(), size_t{0});
  std::sort(by_name.begin(), by_name.end(),
            [&](size_t a, size_t b) { return natural_less(tensors[a].name, tensors[b].name); });

  if (source.model().has_value()) {
    const ModelRecord& model = *source.model();
    const uint32_t last = model.num_layers + 1;
    for (size_t i = 0; i < by_name.size(); ++i) {
      const size_t t = by_name[i];
      const std::string& name = tensors[t].name;
      const std::optional<Place> place = place_of(model, name);
      plan[i].source = t;
      if (place) roles[t] = place->role;
      if (place && of_layer(place->role)) {
        plan[i].group = place->layer + 1;
        rank[t] = rank_in_layer(place->role);
      } else if (const std::optional<uint32_t> layer = layer_number(name); layer && *layer < model.num_layers) {
        plan[i].group = *layer + 1;
        rank[t] = kNoRank;
      } else if (place && (place->role == Role::kEmbedding || place->role == Role::kPositions)) {
        plan[i].group = 0;
      } else {
        plan[i].group = last;
        rank[t] = name.find("norm") != std::string::npos || (place && place->role != Role::kHead) ? 0 : 1;
      }
    }
  } else {
    std::map<std::string, uint32_t> groups;
    for (size_t i = 0; i < by_name.size(); ++i) {
      plan[i].source = by_name[i];
      const auto next = static_cast<uint32_t>(groups.size());
      plan[i].group = groups.emplace(layer_prefix(tensors[by_name[i]].name), next).first->second;
    }
  }
  std::stable_sort(plan.begin(), plan.end(), [&](const PlannedTensor& a, const PlannedTensor& b) {
    return a.group != b.group ? a.group < b.group : rank[a.source] < rank[b.source];
  });
  for (PlannedTensor& p : plan) {
    p.split = choose_split(tensors[p.source].shape);
    p.why_raw = why_not_coded(tensors[p.source], p.split, min_elements);
    // Few weights, and an error in them gives a token to other experts.
    const std::optional<Role>& role = roles[p.source];
    if (role == Role::kRouter || role == Role::kSharedGate) p.why_raw = "it decides about experts";
    if (role == Role::kExpertGateUpBias || role == Role::kExpertDownBias) p.why_raw = "not a matrix";
    // Few weights again: what every patch goes through, and tokens that every text or image begins with.
    const bool of_images = source.model() && source.model()->ends.encoder.of_images();
    if (role == Role::kPatch) p.why_raw = "every patch goes through it";
    if (role == Role::kTokenTypes || role == Role::kRegisters || (role == Role::kPositions && of_images))
      p.why_raw = "it is added to tokens";
    p.coded = p.why_raw.empty();
  }
  return plan;
}

CodecRecord subset_levels(const CodecRecord& codec, std::span<const uint8_t> levels) {
  CodecRecord out = codec;
  const auto count = static_cast<uint32_t>(levels.size());
  out.num_levels = count;
  const uint32_t per_level = kNumContexts * codec.num_banks();
  out.context_map.assign(size_t{count} * per_level, 0);
  out.tables.clear();
  std::vector<int32_t> renumbered(codec.tables.size(), -1);
  for (uint32_t l = 0; l < count; ++l) {
    const uint8_t from = levels[l];
    assert(from < codec.num_levels);
    for (uint32_t i = 0; i < per_level; ++i) {
      const uint16_t table = codec.context_map[from * per_level + i];
      if (renumbered[table] < 0) {
        renumbered[table] = static_cast<int32_t>(out.tables.size());
        out.tables.push_back(codec.tables[table]);
      }
      out.context_map[l * per_level + i] = static_cast<uint16_t>(renumbered[table]);
    }
  }
  for (std::vector<float>* v : {&out.step, &out.shrink, &out.rate}) pick_levels(codec.num_levels, levels, 1, v);
  pick_levels(codec.num_levels, levels, codec.synthesis.width, &out.synthesis.level_embedding);
  return out;
}

CodecModel subset_levels(const CodecModel& codec, std::span<const uint8_t> levels) {
  CodecModel out = codec;
  out.record = subset_levels(codec.record, levels);
  for (std::vector<float>* v : {&out.lambda, &out.entropy.level_scale})
    pick_levels(codec.record.num_levels, levels, 1, v);
  pick_levels(codec.record.num_levels, levels, codec.analysis.width, &out.analysis.level_embedding);
  return out;
}

}  // namespace nwc
