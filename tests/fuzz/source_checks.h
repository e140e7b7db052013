// What the fuzzers of checkpoint readers do with a model that was taken: read its tensors, use its tokenizer, and store
// what it says about itself.
#pragma once

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "runtime/model/tokenizer.h"
#include "tests/fuzz/harness_support.h"
#include "trainer/data/model_source.h"

namespace nwc::fuzz {

inline constexpr uint64_t kMaxReadElements = 1 << 16;

/// Every reader's record passes the checks of the record's own section, written and read again.
inline void check_model_record(const ModelRecord& record) {
  require(validate(record).ok(), "a source's model record is valid");
  const std::vector<uint8_t> bytes = serialize(record);
  const auto again = parse_model_record(bytes, 0);
  require(again.ok() && serialize(*again) == bytes, "a source's model record survives being written and read");
}

/// The same for a tokenizer, which also has to encode any text, and give the same text again where it may.
inline void check_tokenizer_record(const TokenizerRecord& record, Bytes input) {
  require(validate(record).ok(), "a source's tokenizer record is valid");
  const std::vector<uint8_t> bytes = serialize(record);
  const auto again = parse_tokenizer_record(bytes, 0);
  require(again.ok() && serialize(*again) == bytes, "a source's tokenizer record survives being written and read");
  const auto tokenizer = Tokenizer::create(record);
  if (!tokenizer.ok()) return;
  std::string text("Hello, \xc3\xa4 world  12345\n<s>");
  text.append(reinterpret_cast<const char*>(input.data()), std::min<size_t>(input.size(), 60));
  for (const bool special : {false, true}) {
    const auto ids = (*tokenizer)->encode(text, {.add_special = special, .add_end = special, .parse_special = special});
    if (!ids.ok()) continue;
    // A normalizer may make more of it, within a limit.
    const size_t most = record.normalizer.empty() ? 3 * text.size() + 8 : 3 * (16 * text.size() + (1 << 16)) + 16;
    require(ids->size() <= most, "no more tokens than the interface states");
    for (const uint32_t id : *ids) require(id < record.tokens.size(), "tokens of the vocabulary");
    static_cast<void>((*tokenizer)->decode(*ids));
  }
}

inline void check_source(const ModelSource& source, Bytes input) {
  std::vector<uint8_t> raw;
  for (size_t i = 0; i < source.tensors().size(); ++i) {
    const SourceTensor& t = source.tensors()[i];
    require(source.find(t.name) == i, "tensors by name");
    if (t.num_elements() > kMaxReadElements) continue;
    raw.resize(static_cast<size_t>(t.num_bytes()));
    const bool readable = source.read_raw(i, raw).ok();
    const auto values = source.read_f32(i);
    if (!values.ok()) continue;
    require(readable && values->size() == t.num_elements(), "values of a tensor that can be read");
    for (const float v : *values) require(std::isfinite(v), "values are finite");
  }
  if (source.model()) check_model_record(*source.model());
  if (source.tokenizer()) check_tokenizer_record(*source.tokenizer(), input);
}

}  // namespace nwc::fuzz
