// A decoder reads states, then words in the order in which lanes ask for them. rANS is a stack, so the encoder runs
// everything backwards: last step first, passes 3, 2, 1, last lane first, and turns the words around at the end.
#include "trainer/search/rans_encode.h"

#include <algorithm>
#include <cmath>

#include "runtime/codec/decode_tables.h"

namespace nwc {
namespace {

/// One lane's part in a step, gathered before coding so that each pass is a plain loop over lanes.
struct LaneStep {
  const EncodeTables::Table* table;
  uint32_t symbol;
  int16_t value;
};

/// The bank of every value: the encoder runs backwards, the trellis forwards. Empty without a trellis.
std::vector<uint8_t> banks_of_tile(const Trellis* trellis, const TileGeometry& geometry,
                                   std::span<const int16_t> values) {
  std::vector<uint8_t> bank;
  if (trellis == nullptr) return bank;
  bank.resize(values.size());
  for (uint32_t column = 0; column < geometry.width; ++column) {
    uint16_t state = 0;
    for (uint32_t rb = 0; rb < geometry.row_blocks(); ++rb) {
      const size_t first = (size_t{rb} * geometry.width + column) * kChunk;
      for (size_t i = first; i < first + kChunk; ++i) {
        bank[i] = static_cast<uint8_t>(Trellis::bank(state));
        state = trellis->next(state, trellis_value(values[i], bank[i]));
      }
    }
  }
  return bank;
}

using States = std::array<uint32_t, kNumLanes>;

States all_low() {
  States states;
  states.fill(kRansLow);
  return states;
}

/// Codes a tile from its last symbol to its first.
class BackwardCoder {
 public:
  BackwardCoder(const EncodeTables& tables, const TileGeometry& geometry, const uint8_t* level,
                const uint8_t* row_class, std::span<const int16_t> values)
      : tables_(tables),
        geometry_(geometry),
        level_(level),
        row_class_(row_class),
        values_(values),
        bank_(banks_of_tile(tables.trellis(), geometry, values)) {
    words_.reserve(values.size() / 2);
  }

  /// From these states, in which a decoder ends, to those in which it begins; until_word: or only to those in which the
  /// first word, a decoder's last, is about to come.
  States run(const States& from, bool until_word) {
    States state = from;
    words_.clear();
    for (uint32_t rb = geometry_.row_blocks(); rb-- > 0;) {
      for (uint32_t j = geometry_.slots(); j-- > 0;) {
        for (uint32_t channel = kChunk; channel-- > 0;) {
          if (!step(rb, j, channel, until_word, &state)) return state;
        }
      }
    }
    return state;
  }

  /// States to begin with, about as small as section 5.3 allows: at the first word no lane may be below 2^16, for a
  /// decoder would renormalise it before that word. (Of the first 4096, the one that the first symbols turn into the
  /// smallest state would save 0.4 bit a lane more than 0 does.)
  States smallest_states() {
    States from{};
    for (;;) {
      const States state = run(from, true);
      if (words_.empty()) return from;
      bool raised = false;
      for (uint32_t l = 0; l < geometry_.lanes(); ++l) {
        if (state[l] >= kRansLow) continue;
        // States grow in proportion, but for what is rounded.
        const uint32_t factor = std::max<uint32_t>(2, kRansLow / std::max<uint32_t>(state[l], 1));
        from[l] = from[l] == 0 ? 1 : std::min<uint32_t>(kRansLow, from[l] * factor);
        raised = true;
      }
      if (!raised) return from;
    }
  }

  /// Of the last run, last one first.
  const std::vector<uint16_t>& words() const { return words_; }

 private:
  LaneStep lane_step(uint32_t rb, uint32_t j, uint32_t l, uint32_t channel) const {
    const uint32_t context =
        tables_.context_kind() == ContextKind::kChannel ? channel : row_class_[size_t{rb} * kChunk + channel];
    const uint32_t column = j * kNumLanes + l;
    const size_t at = (size_t{rb} * geometry_.width + column) * kChunk + channel;
    const uint32_t b = bank_.empty() ? 0 : bank_[at];
    const int16_t k = bank_.empty() ? values_[at] : trellis_value(values_[at], b);
    const EncodeTables::Table& t = tables_.table(level_[column], context, b);
    return {&t, t.symbol(k), k};
  }

  /// False: a word has come that was waited for, in place of which nothing else has happened.
  bool step(uint32_t rb, uint32_t j, uint32_t channel, bool until_word, States* states) {
    States& state = *states;
    const uint32_t active = std::min(geometry_.lanes(), geometry_.width - j * kNumLanes);
    bool any_raw = false, any_escape = false;
    for (uint32_t l = 0; l < active; ++l) {
      steps_[l] = lane_step(rb, j, l, channel);
      any_raw = any_raw || steps_[l].table->raw_bits != 0;
      any_escape = any_escape || steps_[l].symbol == steps_[l].table->escape;
    }
    if (any_escape) {
      for (uint32_t l = active; l-- > 0;) {
        if (steps_[l].symbol != steps_[l].table->escape) continue;
        words_.push_back(static_cast<uint16_t>(steps_[l].value));
        if (until_word) return false;
      }
    }
    if (any_raw) {
      for (uint32_t l = active; l-- > 0;) {
        const uint32_t r = steps_[l].table->raw_bits;
        if (r == 0 || steps_[l].symbol == steps_[l].table->escape) continue;
        if (uint64_t{state[l]} >> (32 - r) != 0) {
          words_.push_back(static_cast<uint16_t>(state[l]));
          if (until_word) return false;
          state[l] >>= 16;
        }
        state[l] = (state[l] << r) | (static_cast<uint32_t>(steps_[l].value) & ((1u << r) - 1));
      }
    }
    for (uint32_t l = active; l-- > 0;) {
      const EncodeTables::Table& t = *steps_[l].table;
      const uint32_t f = t.freq[steps_[l].symbol];
      uint32_t x = state[l];
      if (x >= uint64_t{f} << (32 - kProbBits)) {
        words_.push_back(static_cast<uint16_t>(x));
        if (until_word) return false;
        x >>= 16;
      }
      const uint32_t q = x / f;
      state[l] = (q << kProbBits) | t.slot[t.start[steps_[l].symbol] + (x - q * f)];
    }
    return true;
  }

  const EncodeTables& tables_;
  const TileGeometry geometry_;
  const uint8_t* const level_;
  const uint8_t* const row_class_;
  const std::span<const int16_t> values_;
  const std::vector<uint8_t> bank_;  ///< of every value; empty without a trellis
  std::vector<uint16_t> words_;
  std::array<LaneStep, kNumLanes> steps_;
};

}  // namespace

EncodeTables::EncodeTables(const CodecRecord& codec)
    : context_map_(codec.context_map),
      banks_(codec.num_banks()),
      context_kind_(codec.context_kind),
      trellis_(find_trellis(codec.trellis_bits)) {
  tables_.reserve(codec.tables.size());
  for (const FrequencyTable& t : codec.tables) {
    Table& out = tables_.emplace_back();
    out.raw_bits = t.raw_bits;
    out.min = t.min;
    out.escape = static_cast<uint32_t>(t.freq.size() - 1);
    uint32_t sum = 0;
    for (size_t s = 0; s < t.freq.size(); ++s) {
      out.freq[s] = t.freq[s];
      out.start[s] = static_cast<uint16_t>(sum);
      sum += t.freq[s];
    }
    const AliasTable alias = build_alias_table(t.freq);
    for (uint32_t slot = 0; slot < kProbScale; ++slot) {
      const AliasHit hit = lookup(alias, slot);
      out.slot[out.start[hit.symbol] + hit.rank] = static_cast<uint16_t>(slot);
    }
  }
}

uint32_t encode_tile(const EncodeTables& tables, const TileGeometry& geometry, const uint8_t* level,
                     const uint8_t* row_class, std::span<const int16_t> values, std::vector<uint8_t>* payload) {
  assert(values.size() == size_t{geometry.row_blocks()} * geometry.width * kChunk);
  BackwardCoder coder(tables, geometry, level, row_class, values);
  const States states = coder.run(geometry.free_states ? coder.smallest_states() : all_low(), false);
  const std::vector<uint16_t>& words = coder.words();
  const uint32_t lanes = geometry.lanes();
  const size_t at = payload->size();
  payload->resize(at + size_t{lanes} * 4 + words.size() * 2);
  uint8_t* p = payload->data() + at;
  for (uint32_t l = 0; l < lanes; ++l, p += 4) store_le(p, states[l]);
  for (size_t i = words.size(); i-- > 0; p += 2) store_le(p, words[i]);
  return static_cast<uint32_t>(payload->size() - at);
}

TableCosts::TableCosts(const CodecRecord& codec) : TableCosts(std::span<const FrequencyTable>(codec.tables)) {
  context_map_ = codec.context_map;
  banks_ = codec.num_banks();
}

TableCosts::TableCosts(std::span<const FrequencyTable> tables) {
  costs_.reserve(tables.size());
  for (const FrequencyTable& t : tables) {
    Costs& c = costs_.emplace_back();
    c.raw_bits = t.raw_bits;
    c.min = t.min;
    c.count = static_cast<int32_t>(t.freq.size()) - 1;
    for (size_t s = 0; s + 1 < t.freq.size(); ++s) {
      c.bits[s] = static_cast<float>(kProbBits - std::log2(static_cast<double>(t.freq[s])) + t.raw_bits);
    }
    c.escape = static_cast<float>(kProbBits - std::log2(static_cast<double>(t.freq.back())) + 16);
  }
}

}  // namespace nwc
