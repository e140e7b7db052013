#include "trainer/recover/distill_state.h"

#include <cstdio>
#include <cstdlib>

#include "trainer/data/content_hash.h"

namespace nwc {
namespace {

/// Part of the hash: raise it when the same choices give other values.
constexpr uint64_t kDistillVersion = 1;

std::vector<KeptTensor> kept_tensors(DistillState* state) {
  const auto whole = [](const char* name, RowVector<float>* v) {
    const auto size = static_cast<size_t>(v->size());
    return KeptTensor{name, {size}, {v->data(), size}};
  };
  std::vector<KeptTensor> out = {whole("values", &state->values), whole("best", &state->best)};
  for (size_t i = 0; i < state->tuned.size(); ++i) {
    Adam& adam = state->tuned[i].adam;
    out.push_back({"mean." + std::to_string(i), {adam.mean.size()}, adam.mean});
    out.push_back({"variance." + std::to_string(i), {adam.variance.size()}, adam.variance});
  }
  return out;
}

std::string exact(double v) {
  char text[32];
  std::snprintf(text, sizeof text, "%a", v);
  return text;
}

}  // namespace

Result<std::string> distill_hash(const ModelSource& source, const ModelSource& coded,
                                 const std::vector<bool>& replaceable, const DistillChoices& choices) {
  ContentHash hash;
  hash.add(kDistillVersion);
  NWC_TRY(hash.add(source));
  NWC_TRY(hash.add(coded));
  for (const bool may : replaceable) hash.add(uint64_t{may});
  for (const uint64_t v : {uint64_t{choices.epochs}, uint64_t{choices.batch_tokens}, choices.seed,
                           uint64_t{choices.context}, uint64_t{choices.tokens.size()}})
    hash.add(v);
  hash.add(choices.learning_rate);
  hash.add(choices.validation);
  hash.add({reinterpret_cast<const uint8_t*>(choices.tokens.data()), choices.tokens.size() * sizeof(uint32_t)});
  return hash.hex();
}

bool take_state(const std::string& hash, DistillState* state, RecoveryFiles* files, const Logger& log) {
  DistillState kept = *state;
  KeptNotes notes = {{"updates", ""}, {"epochs", ""}, {"best_epoch", ""}, {"before", ""}, {"after", ""}};
  if (!files->take_distillation(hash, kept_tensors(&kept), &notes, log)) return false;
  const auto count = [&](const char* key) { return std::strtoull(notes[key].c_str(), nullptr, 10); };
  kept.updates = count("updates");
  kept.epochs = count("epochs");
  kept.best_epoch = static_cast<uint32_t>(count("best_epoch"));
  kept.before = std::strtod(notes["before"].c_str(), nullptr);
  kept.after = std::strtod(notes["after"].c_str(), nullptr);
  for (TunedVector& v : kept.tuned) v.adam.updates = kept.updates;
  *state = std::move(kept);
  return true;
}

void keep_state(const std::string& hash, DistillState* state, RecoveryFiles* files, const Logger& log) {
  files->keep_distillation(hash, kept_tensors(state),
                           {{"updates", std::to_string(state->updates)},
                            {"epochs", std::to_string(state->epochs)},
                            {"best_epoch", std::to_string(state->best_epoch)},
                            {"before", exact(state->before)},
                            {"after", exact(state->after)}},
                           log);
}

}  // namespace nwc
