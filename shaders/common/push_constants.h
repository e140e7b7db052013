// The push constants of all kernels, for the shaders and for the C++ that dispatches them: both include this file. In
// GLSL the kernel declares `layout(push_constant) uniform Parameters { RansPush pc; };`; members are scalars of four
// bytes, so that both languages lay a struct out alike. A second argument is the value that C++ begins with.
#ifndef NWC_SHADERS_COMMON_PUSH_CONSTANTS_H
#define NWC_SHADERS_COMMON_PUSH_CONSTANTS_H

#ifdef __cplusplus
#include <cstdint>
namespace nwc {
#define NWC_UINT(name, first) uint32_t name = first;
#define NWC_FLOAT(name, first) float name = first;
#define NWC_CONSTANT(name, value) inline constexpr uint32_t name = value;
#else
#define NWC_UINT(name, first) uint name;
#define NWC_FLOAT(name, first) float name;
#define NWC_CONSTANT(name, value) const uint name = value;
#endif

// clang-format off
// These stand for an index where the tensor has no such data.
NWC_CONSTANT(kNoRowScale, 4294967295u)
NWC_CONSTANT(kNoRowClass, 4294967295u)
NWC_CONSTANT(kNoVectorAt, 4294967295u)

// rans_decode_*.comp and rans_product_*.comp. "Index" without more is one in window_data, the window's input.
struct RansPush {
  NWC_UINT(tile_at, 0)     // index of the tile records
  NWC_UINT(context_at, 0)  // index in window_pairs of the contexts: [level][channel or row class][bank], a pair of the
                           // table's first bucket and its info word
  NWC_UINT(used_at, 0)     // index of the list of tables to copy to shared memory
  NWC_UINT(num_used, 0)
  NWC_UINT(level_at, 0)    // index of the columns' levels, four to a word
  NWC_UINT(width, 0)       // columns of the window
  NWC_UINT(num_tiles, 0)
  NWC_UINT(any_raw_bits, 0)
  NWC_UINT(row_class_at, kNoRowClass)  // index of the rows' classes, four to a word; kNoRowClass: a context's second
                                       // index is the channel
  NWC_UINT(trellis, 0)     // 0 without; else what an odd state adds to the next one, plus 65536 times what an odd value adds
  // The rest is for weights and products.
  NWC_UINT(scale_at, 0)    // index of the columns' scales
  NWC_UINT(row_scale_at, kNoRowScale)  // index of the rows' scales
  NWC_UINT(network_at, 0)  // index of (step, shrink)[num_levels], skip_weight[16][16]
  NWC_UINT(num_levels, 0)
  NWC_UINT(row_begin, 0)   // weights and partial results are written of the window's rows [row_begin, row_end), values
  NWC_UINT(row_end, 0)     // from row_begin on
  NWC_UINT(out_at, 0)      // element of the output that row row_begin begins with; even where two make a word; of values
                           // the first of four words
  NWC_UINT(out_stride, 0)  // elements from row to row; of values columns from row block to row block
  NWC_UINT(x_at, 0)        // products: element of x that the window's first column is multiplied by
  NWC_UINT(x_stride, 0)    // elements from vector to vector
  NWC_UINT(num_vectors, 1) // at most kBatch
  NWC_UINT(tile_cols, 1)   // columns of a tile that is not at the edge
};

// synthesis_mlp.comp.
struct SynthesisPush {
  NWC_UINT(level_at, 0)    // index in window_data of the columns' levels, four to a word
  NWC_UINT(scale_at, 0)    // index in window_data of the columns' scales
  NWC_UINT(row_scale_at, kNoRowScale)  // index in window_data of the rows' scales
  NWC_UINT(width, 0)       // columns of the window
  NWC_UINT(first_block, 0) // first row block of the window to synthesise
  NWC_UINT(num_chunks, 0)  // row blocks times width
  NWC_UINT(row_begin, 0)   // weights are written of the window's rows [row_begin, row_end)
  NWC_UINT(row_end, 0)
  NWC_UINT(out_at, 0)      // element of the output that row row_begin begins with; for halves it and the width are even
  NWC_UINT(out_stride, 0)  // elements from row to row
  NWC_UINT(num_levels, 0)
};

// synthesis_mlp_product.comp.
struct NetworkPush {
  NWC_UINT(level_at, 0)    // index in window_data of the columns' levels, four to a word
  NWC_UINT(scale_at, 0)    // index in window_data of the columns' scales
  NWC_UINT(width, 0)       // columns of the window
  NWC_UINT(num_levels, 0)
  NWC_UINT(status_at, 0)   // index in values[] of the status words of the slice's tiles
  NWC_UINT(values_at, 0)   // index in values[] of the slice's values
  NWC_UINT(tile_cols, 1)   // columns of a tile that is not at the edge
  NWC_UINT(tile_blocks, 1) // row blocks of such a tile
  NWC_UINT(num_vectors, 1)
  NWC_UINT(num_rows, 0)    // of the slice
  NWC_UINT(first_block, 0) // row block of the slice that the workgroups begin with
};

// fused_reduce.comp: y[vector][row] = or += row scale * sum over bands of partials[band][vector][row].
struct ReducePush {
  NWC_UINT(num_bands, 1)
  NWC_UINT(num_vectors, 1)
  NWC_UINT(num_rows, 0)
  NWC_UINT(row_scale_at, kNoRowScale)  // index in window_data of the first row's scale
  NWC_UINT(y_at, 0)        // element of y of the first row
  NWC_UINT(y_stride, 0)    // elements from vector to vector
  NWC_UINT(accumulate, 0)  // 1: y += instead of y =
};

// convert_half.comp.
struct ConvertPush {
  NWC_UINT(count, 0)  // of numbers; an odd one leaves the upper half of the last word zero
  NWC_UINT(bf16, 0)
};

// embed_rows.comp.
struct EmbedPush {
  NWC_UINT(hidden, 0)      // even
  NWC_UINT(first_word, 0)  // index in embedding of the first row bound
  NWC_UINT(first_row, 0)   // the number of that row
  NWC_UINT(num_rows, 0)
  NWC_UINT(num_tokens, 0)
  NWC_UINT(token_at, 0)    // index in tokens of the first
  NWC_UINT(add, 0)         // 1: x += instead of x =
  NWC_FLOAT(scale, 1)
};

// norm_rows.comp. A token has several rows one after another: its heads.
struct NormPush {
  NWC_UINT(n, 0)
  NWC_UINT(gain_at, 0)  // index in vectors of the first
  NWC_UINT(bias_at, kNoVectorAt)
  NWC_FLOAT(eps, 0)
  NWC_UINT(layer_norm, 0)  // 1: less the mean
  NWC_UINT(x_at, 0)
  NWC_UINT(x_stride, 0)    // elements from token to token
  NWC_UINT(out_at, 0)
  NWC_UINT(out_stride, 0)
};

// add_rows.comp.
struct AddPush {
  NWC_UINT(n, 0)
  NWC_UINT(x_stride, 0)  // elements from token to token
  NWC_UINT(y_at, 0)
  NWC_UINT(y_stride, 0)  // 0: one row for all tokens
  NWC_FLOAT(scale, 1)
  NWC_UINT(multiply, 0)  // 1: x is multiplied by y instead
};

// matmul_few.comp and matmul_many.comp.
struct MatmulPush {
  NWC_UINT(rows, 0)
  NWC_UINT(cols, 0)       // even
  NWC_UINT(weight_at, 0)  // index in weights of row 0
  NWC_UINT(x_at, 0)
  NWC_UINT(x_stride, 0)   // elements from token to token
  NWC_UINT(y_at, 0)
  NWC_UINT(y_stride, 0)
  NWC_UINT(num_tokens, 0) // of matmul_few at most kTokens
  NWC_UINT(add, 0)        // 1: y += instead of y =
};

// integers_pack.comp. Units, outliers and what is looked up of a tensor: runtime/codec/device_form.h. "Index" is one of
// words in the binding of everything behind the units, unless it says more.
struct PackPush {
  NWC_UINT(rows, 0)         // of the tensor
  NWC_UINT(cols, 0)
  NWC_UINT(num_units, 0)    // of a row block
  NWC_UINT(block_words, 0)  // of a row block's units
  NWC_UINT(first_block, 0)  // row block of the tensor that the values begin with
  NWC_UINT(weight_at, 0)    // word of its units in the binding of the units
  NWC_UINT(units_at, 0)     // index of the units' entries
  NWC_UINT(ranges_at, 0)    // index of the row blocks' ends of outliers
  NWC_UINT(count_at, 0)     // index of the number of outliers, of the word that says that they are too many, and of the
                            // number of row blocks packed
  NWC_UINT(outliers_at, 0)  // index of the outliers
  NWC_UINT(max_outliers, 0)
};

// integers_requantize.comp. Indices as in PackPush.
struct RequantizePush {
  NWC_UINT(rows, 0)         // of the tensor
  NWC_UINT(cols, 0)
  NWC_UINT(num_units, 0)
  NWC_UINT(block_words, 0)
  NWC_UINT(first_block, 0)
  NWC_UINT(weight_at, 0)
  NWC_UINT(row_scale_at, 0) // index of the tensor's first row's
  NWC_UINT(factor_at, 0)
  NWC_UINT(ranges_at, 0)
  NWC_UINT(count_at, 0)
};

// integers_few.comp and integers_many.comp. Indices as in PackPush.
struct IntegersPush {
  NWC_UINT(rows, 0)         // of the band
  NWC_UINT(cols, 0)
  NWC_UINT(num_units, 0)
  NWC_UINT(block_wide, 0)   // four words: of a row block's units
  NWC_UINT(weight_at, 0)    // four words in front of the band's first row block
  NWC_UINT(row_scale_at, 0) // index of the band's first row's
  NWC_UINT(factor_at, 0)
  NWC_UINT(shrink_at, 0)
  NWC_UINT(units_at, 0)
  NWC_UINT(ranges_at, 0)    // of the band's first row block
  NWC_UINT(outliers_at, 0)
  NWC_UINT(x_at, 0)
  NWC_UINT(x_stride, 0)     // elements from token to token
  NWC_UINT(y_at, 0)
  NWC_UINT(y_stride, 0)
  NWC_UINT(num_tokens, 0)   // of integers_few at most kTokens
  NWC_UINT(add, 0)          // 1: y += instead of y =
};

// integers_rows.comp. Indices as in PackPush.
struct IntegerRowsPush {
  NWC_UINT(cols, 0)
  NWC_UINT(block_words, 0)
  NWC_UINT(weight_at, 0)    // words in front of the band's first row block
  NWC_UINT(first_row, 0)    // the number of the band's first row
  NWC_UINT(num_rows, 0)
  NWC_UINT(row_scale_at, 0) // index of the band's first row's
  NWC_UINT(factor_at, 0)
  NWC_UINT(shrink_at, 0)
  NWC_UINT(units_at, 0)
  NWC_UINT(ranges_at, 0)    // of the band's first row block
  NWC_UINT(outliers_at, 0)
  NWC_UINT(token_at, 0)     // index in tokens of the first
  NWC_UINT(add, 0)          // 1: x += instead of x =
  NWC_FLOAT(scale, 1)
};

// rope_store.comp.
struct RopePush {
  NWC_UINT(num_heads, 0)
  NWC_UINT(num_kv_heads, 0)
  NWC_UINT(head_dim, 0)  // a multiple of 4
  NWC_UINT(position, 0)  // of token 0
  NWC_UINT(kept, 0)      // positions that the cache keeps, a ring
  NWC_UINT(rotated, 0)   // dimensions of a head that rotate, the first ones; a multiple of 4
  NWC_UINT(angle_at, 0)  // index in angles of the first token's [rotated]: cosines of the pairs (i, i + rotated / 2), then
                         // sines, then the scale of the queries
  NWC_UINT(angle_stride, 0)
  NWC_UINT(scale_queries, 0)
};

// attention.comp.
NWC_CONSTANT(kAttentionBlock, 64u)  // positions that go by together
struct AttentionPush {
  NWC_UINT(num_heads, 0)
  NWC_UINT(num_kv_heads, 0)
  NWC_UINT(head_dim, 0)  // a multiple of 4, at most 256
  NWC_UINT(position, 0)  // of token 0
  NWC_UINT(kept, 0)      // positions that the cache keeps, a ring
  NWC_UINT(window, 0)    // positions that a token sees, itself included; 0: all
  NWC_FLOAT(scale, 1)
  NWC_FLOAT(softcap, 0)  // 0: none
  NWC_UINT(num_tokens, 1)
  NWC_UINT(tile_heads, 1)   // heads of a tile, all of one KV head
  NWC_UINT(head_tiles, 1)   // of a KV head
  NWC_UINT(tile_tokens, 1)  // tile_heads * tile_tokens are at most kQueries
  NWC_UINT(origin, 0)       // the first piece's first position
  NWC_UINT(piece, 0)        // positions of a piece, a multiple of kAttentionBlock
  NWC_UINT(pieces, 1)
  NWC_UINT(statistics_at, 0)  // with several pieces: index in pairs of (largest, total) [row][piece], behind the sums
  NWC_UINT(sinks_at, kNoVectorAt)  // index in vectors of the first head's sink
  NWC_UINT(seen_end, 0)            // positions that every token sees, of a block that is not causal; 0: causal
};

// attention_reduce.comp.
struct AttentionReducePush {
  NWC_UINT(head_dim, 0)
  NWC_UINT(pieces, 1)
  NWC_UINT(statistics_at, 0)
  NWC_UINT(sinks_at, kNoVectorAt)  // as in AttentionPush
};

// activate.comp.
struct ActivatePush {
  NWC_UINT(n, 0)
  NWC_UINT(x_at, 0)
  NWC_UINT(out_at, 0)
  NWC_FLOAT(bound, 0)    // of gate (above) and up (both sides); 0: none
  NWC_FLOAT(up_plus, 0)  // is added to up
};

// gather_rows.comp.
struct GatherPush {
  NWC_UINT(n, 0)         // of a row of either side
  NWC_UINT(index_at, 0)  // index in indices of the first row's
  NWC_UINT(x_at, 0)
  NWC_UINT(y_at, 0)
  NWC_UINT(add, 0)       // 1: y += instead of y =
};

// combine_rows.comp.
struct CombinePush {
  NWC_UINT(n, 0)
  NWC_UINT(per_token, 0)
  NWC_UINT(rows_at, 0)     // index in choices
  NWC_UINT(weights_at, 0)  // likewise
  NWC_UINT(add, 0)         // 1: y += instead of y =
};

// share_rows.comp.
struct SharePush {
  NWC_UINT(n, 0)
  NWC_UINT(logit_at, 0)      // index in logits of the first token's
  NWC_UINT(logit_stride, 0)  // elements from token to token
};
// clang-format on

#undef NWC_UINT
#undef NWC_FLOAT
#undef NWC_CONSTANT
#ifdef __cplusplus
}  // namespace nwc
#endif
#endif
