// Model descriptions for tests. A test states the sizes that it is about and changes the other fields that it needs.
#pragma once

#include "runtime/format/model_record.h"

namespace nwc::test {

struct ModelSizes {
  uint32_t vocab = 0, hidden = 0, inner = 0, layers = 1;
  uint32_t heads = 1, kv_heads = 1;
  uint32_t head_dim = 0;  ///< 0: hidden / heads
  uint32_t context = 32;
};

/// A valid Llama model of these sizes: separate embedding and head, no end tokens, plain rotary positions.
inline ModelRecord llama_record(const ModelSizes& s) {
  ModelRecord r;
  r.vocab_size = s.vocab;
  r.hidden_size = s.hidden;
  r.block().intermediate_size = s.inner;
  r.num_layers = s.layers;
  r.block().num_heads = s.heads;
  r.block().num_kv_heads = s.kv_heads;
  r.block().head_dim = s.head_dim == 0 ? s.hidden / s.heads : s.head_dim;
  r.max_positions = s.context;
  r.block().norm_eps = 1e-5f;
  r.block().rope.theta = 10000;
  return r;
}

}  // namespace nwc::test
