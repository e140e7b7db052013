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
    uint8_t state = 0;
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
  const uint32_t width = geometry.width;
  const uint32_t lanes = geometry.lanes();
  assert(values.size() == size_t{geometry.row_blocks()} * width * kChunk);

  std::array<uint32_t, kNumLanes> state;
  state.fill(kRansLow);
  std::vector<uint16_t> words;
  words.reserve(values.size() / 2);
  std::array<LaneStep, kNumLanes> steps;
  const std::vector<uint8_t> bank = banks_of_tile(tables.trellis(), geometry, values);

  for (uint32_t rb = geometry.row_blocks(); rb-- > 0;) {
    for (uint32_t j = geometry.slots(); j-- > 0;) {
      const uint32_t active = std::min(lanes, width - j * kNumLanes);
      for (uint32_t channel = kChunk; channel-- > 0;) {
        const uint32_t context =
            tables.context_kind() == ContextKind::kChannel ? channel : row_class[size_t{rb} * kChunk + channel];
        bool any_raw = false, any_escape = false;
        for (uint32_t l = 0; l < active; ++l) {
          const uint32_t column = j * kNumLanes + l;
          const size_t at = (size_t{rb} * width + column) * kChunk + channel;
          const uint32_t b = bank.empty() ? 0 : bank[at];
          const int16_t k = bank.empty() ? values[at] : trellis_value(values[at], b);
          const EncodeTables::Table& t = tables.table(level[column], context, b);
          steps[l] = {&t, t.symbol(k), k};
          any_raw = any_raw || t.raw_bits != 0;
          any_escape = any_escape || steps[l].symbol == t.escape;
        }
        if (any_escape) {
          for (uint32_t l = active; l-- > 0;) {
            if (steps[l].symbol == steps[l].table->escape) words.push_back(static_cast<uint16_t>(steps[l].value));
          }
        }
        if (any_raw) {
          for (uint32_t l = active; l-- > 0;) {
            const uint32_t r = steps[l].table->raw_bits;
            if (r == 0 || steps[l].symbol == steps[l].table->escape) continue;
            if (uint64_t{state[l]} >> (32 - r) != 0) {
              words.push_back(static_cast<uint16_t>(state[l]));
              state[l] >>= 16;
            }
            state[l] = (state[l] << r) | (static_cast<uint32_t>(steps[l].value) & ((1u << r) - 1));
          }
        }
        for (uint32_t l = active; l-- > 0;) {
          const EncodeTables::Table& t = *steps[l].table;
          const uint32_t f = t.freq[steps[l].symbol];
          uint32_t x = state[l];
          if (x >= uint64_t{f} << (32 - kProbBits)) {
            words.push_back(static_cast<uint16_t>(x));
            x >>= 16;
          }
          const uint32_t q = x / f;
          state[l] = (q << kProbBits) | t.slot[t.start[steps[l].symbol] + (x - q * f)];
        }
      }
    }
  }

  const size_t at = payload->size();
  payload->resize(at + size_t{lanes} * 4 + words.size() * 2);
  uint8_t* p = payload->data() + at;
  for (uint32_t l = 0; l < lanes; ++l, p += 4) store_le(p, state[l]);
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
