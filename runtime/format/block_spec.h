// What a transformer block computes, as data: the specs of a MODEL section (doc/format_model.md, record version 2).
#pragma once

#include <cstdint>
#include <vector>

namespace nwc {

enum class NormKind : uint8_t {
  kRms = 0,    ///< x / sqrt(mean(x^2) + eps) * gain
  kLayer = 1,  ///< (x - mean(x)) / sqrt(variance(x) + eps) * gain + bias
};
enum class Parallel : uint8_t {
  kNone = 0,        ///< the MLP reads what attention has been added to
  kOwnNorm = 1,     ///< both read the block's input, each through its own norm (GPT-NeoX)
  kSharedNorm = 2,  ///< both read the same normed input (Phi-2, Cohere)
};
enum class QkNorm : uint8_t {
  kNone = 0,
  kPerHead = 1,  ///< each head by itself, one gain [head_dim] for all heads (Qwen 3, Gemma 3)
  kWhole = 2,    ///< all heads together, gains [heads * head_dim] (OLMo 2)
};
enum class Positions : uint8_t { kNone = 0, kRotary = 1 };
enum class RopeScaling : uint8_t { kNone = 0, kLinear = 1, kLlama3 = 2, kYarn = 3, kLong = 4, kDynamic = 5 };
enum class MlpActivation : uint8_t { kSilu = 0, kGelu = 1, kGeluTanh = 2, kRelu = 3, kRelu2 = 4, kQuickGelu = 5 };
enum class RouterKind : uint8_t { kSoftmaxThenTopK = 0, kTopKThenSoftmax = 1, kSigmoid = 2 };

/// Rotary positions (Su et al. 2021): pair i of a head is (i, i + dims / 2), its frequency theta^(-2 i / dims).
struct RopeSpec {
  uint32_t dims = 0;  ///< the first dimensions of a head that rotate; 0: the whole head
  float theta = 0;
  RopeScaling scaling = RopeScaling::kNone;
  float factor = 1;                     ///< kLinear, kLlama3, kYarn, kDynamic
  float low_freq_factor = 1;            ///< kLlama3
  float high_freq_factor = 4;           ///< kLlama3
  uint32_t original_max_positions = 0;  ///< kLlama3, kYarn, kLong, kDynamic: the trained length
  float beta_fast = 32, beta_slow = 1;  ///< kYarn
  bool truncate = true;                 ///< kYarn: the ramp begins and ends at whole dimensions
  float attention_factor = 1;           ///< kYarn, kLong: factor of the rotated queries and keys
  /// kLong: divisors of the frequencies, [dims / 2], up to the trained length and beyond it.
  std::vector<float> short_factors, long_factors;
  bool operator==(const RopeSpec&) const = default;
};

/// Mixture of experts (Shazeer et al. 2017): every token takes the `per_token` experts that its router's logits rank
/// highest, of equal ones the first, and adds up what they give, times their weights.
struct ExpertSpec {
  uint32_t num_experts = 0;  ///< 0: a dense MLP
  uint32_t per_token = 0, intermediate_size = 0;
  uint32_t shared_intermediate_size = 0;  ///< of the expert that every token takes besides; 0: there is none
  RouterKind router = RouterKind::kSoftmaxThenTopK;
  bool normalized = false;   ///< a token's weights are divided by their sum
  bool router_bias = false;  ///< is added to the logits
  bool shared_gate = false;  ///< the shared expert counts by the sigmoid of a product with its input
  float scale = 1;           ///< of the weights
  bool operator==(const ExpertSpec&) const = default;
};

/// One kind of block. The defaults are Llama's.
struct BlockSpec {
  NormKind norm = NormKind::kRms;
  bool norm_one_plus = false;  ///< the gain is 1 + what is stored (Gemma)
  bool norm_bias = false;
  bool norm_before = true, norm_after = false;  ///< attention and MLP: norms of their inputs, of their outputs
  bool norm_sum = false;  ///< norms of the residual stream after each has been added to it (BERT); roles as norm_after
  bool layer_scale = false;  ///< what each adds is multiplied by a vector (DINOv2)
  Parallel parallel = Parallel::kNone;
  float norm_eps = 0;
  float residual_scale = 1;  ///< of what attention and MLP add (Granite)

  uint32_t num_heads = 0;
  uint32_t num_kv_heads = 0;
  uint32_t head_dim = 0;
  uint32_t window = 0;  ///< positions that a token attends to, itself included; 0: all
  bool qkv_bias = false, output_bias = false;
  bool causal = true;
  bool sinks = false;  ///< one logit a head that takes part in the softmax (GPT-OSS)
  QkNorm qk_norm = QkNorm::kNone;
  float attention_softcap = 0;  ///< scores become cap * tanh(score / cap); 0: none
  float attention_scale = 0;    ///< of the scores; 0: 1 / sqrt(head_dim)
  /// Queries at position p are multiplied by 1 + beta * log(1 + floor(p / positions)) (Ministral 3); beta 0: not.
  float temperature_beta = 0;
  uint32_t temperature_positions = 0;
  Positions positions = Positions::kRotary;
  RopeSpec rope;

  uint32_t intermediate_size = 0;
  bool gated = true;  ///< activation(gate) * up; else activation(up)
  bool mlp_bias = false;
  MlpActivation activation = MlpActivation::kSilu;
  float clamp = 0;           ///< bound of gate (above) and up (both sides) before the activation; 0: none
  bool up_plus_one = false;  ///< activation(gate) * (up + 1) (GPT-OSS)
  ExpertSpec experts;

  uint32_t rope_dims() const {
    if (positions == Positions::kNone) return 0;
    return rope.dims != 0 ? rope.dims : head_dim;
  }
  /// Width of the MLP that all tokens take: the shared expert's in a mixture, where it may be 0.
  uint32_t dense_width() const {
    return experts.num_experts != 0 ? experts.shared_intermediate_size : intermediate_size;
  }
  uint32_t q_width() const { return num_heads * head_dim; }
  uint32_t kv_width() const { return num_kv_heads * head_dim; }
  bool operator==(const BlockSpec&) const = default;
};
/// What scores are multiplied by.
float score_scale(const BlockSpec& block);
/// The first position that the token at `position` attends to.
template <typename Position>
Position oldest_seen(const BlockSpec& block, Position position) {
  return block.window == 0 || position < block.window ? 0 : position + 1 - block.window;
}

/// What an embedding is made of.
enum class Pooling : uint8_t {
  kNone = 0,       ///< the model is no encoder: it predicts tokens
  kFirst = 1,      ///< the first token's state
  kMean = 2,       ///< the mean of all tokens' states
  kEndOfText = 3,  ///< the state of the first token that is one of eos_ids, else of the last token
  kAttention = 4,  ///< a block whose one query is learned (SigLIP)
};
/// How learned positions of an image come to its grid of patches.
enum class PositionFit : uint8_t {
  kExact = 0,
  kBicubic = 1,             ///< resized (Keys 1981, a = -0.75), pixel centres aligned
  kBicubicAntialiased = 2,  ///< a = -0.5, the kernel widened where the grid gets smaller
};

/// The ends of a model that gives hidden states and an embedding, of texts or of images, instead of logits.
struct EncoderSpec {
  Pooling pooling = Pooling::kNone;
  bool embedding_norm = false;  ///< of what goes into the first block, of the kind of block 0's
  bool class_token = false;     ///< images: a learned token in front of the patches
  bool patch_bias = false;
  bool pooler = false;       ///< the pooled state becomes tanh(W x + b)
  bool pooled_norm = false;  ///< the final norm is of the pooled state alone
  bool normalized = false;   ///< the embedding is divided by its length
  PositionFit position_fit = PositionFit::kExact;
  uint32_t token_types = 0;  ///< texts: rows of learned types; every token is of type 0
  uint32_t projection = 0;   ///< numbers of the embedding, of a last product; 0: it has hidden_size
  uint32_t image_height = 0, image_width = 0, patch_size = 0, channels = 0;  ///< pixels; all 0: texts
  uint32_t registers = 0;  ///< learned tokens without a position between class token and patches
  bool of_images() const { return patch_size != 0; }
  uint32_t grid_height() const { return image_height / patch_size; }
  uint32_t grid_width() const { return image_width / patch_size; }
  bool operator==(const EncoderSpec&) const = default;
};

/// What comes before the first block and after the last one.
struct EndsSpec {
  float embedding_scale = 1;
  uint32_t position_rows = 0;  ///< rows of learned position embeddings; 0: none
  bool final_norm = true;      ///< of the kind of block 0's norms
  bool head_bias = false;
  float logit_softcap = 0;  ///< logits become cap * tanh(logit / cap); 0: none
  float logit_scale = 1;
  EncoderSpec encoder;
  bool operator==(const EndsSpec&) const = default;
};

/// Tensors of a model by what they do. The values are those of a MODEL section. of_layer() says which stand for one
/// tensor in each layer.
enum class Role : uint8_t {
  kEmbedding = 0,      ///< [vocab][hidden]
  kPositions = 1,      ///< [position_rows][hidden]
  kFinalNorm = 2,      ///< [hidden]
  kFinalNormBias = 3,  ///< [hidden]
  kHead = 4,           ///< [vocab][hidden]
  kHeadBias = 5,       ///< [vocab]
  // Of encoders. Leading sizes of 1 do not count in any of them.
  kTokenTypes = 6,     ///< [types][hidden]
  kEmbeddingNorm = 7,  ///< [hidden]
  kEmbeddingNormBias = 8,
  kPatch = 9,           ///< [hidden][channels][patch][patch]
  kPatchBias = 10,      ///< [hidden]
  kClassToken = 11,     ///< [hidden]
  kRegisters = 12,      ///< [registers][hidden]
  kPooler = 13,         ///< [hidden][hidden]
  kPoolerBias = 14,     ///< [hidden]
  kProjection = 15,     ///< [projection][hidden]
  kAttentionNorm = 16,  ///< [hidden], and so are all norms but those of q and k
  kAttentionNormBias = 17,
  kAttentionPostNorm = 18,
  kAttentionPostNormBias = 19,
  kMlpNorm = 20,
  kMlpNormBias = 21,
  kMlpPostNorm = 22,
  kMlpPostNormBias = 23,
  kAttentionScale = 24,  ///< [hidden], with layer_scale
  kMlpScale = 25,        ///< [hidden]
  kQ = 32,               ///< [heads * head_dim][hidden]
  kK = 33,               ///< [kv_heads * head_dim][hidden]
  kV = 34,
  kQkv = 35,  ///< in place of the three: their rows one below the other
  kQBias = 36,
  kKBias = 37,
  kVBias = 38,
  kQkvBias = 39,
  kQNorm = 40,
  kKNorm = 41,
  kOutput = 42,  ///< [hidden][heads * head_dim]
  kOutputBias = 43,
  kSinks = 44,   ///< [heads]
  kGate = 48,    ///< [intermediate][hidden]
  kUp = 49,      ///< [intermediate][hidden]
  kGateUp = 50,  ///< in place of the two: gate's rows, then up's
  kDown = 51,    ///< [hidden][intermediate]
  kGateBias = 52,
  kUpBias = 53,
  kGateUpBias = 54,
  kDownBias = 55,
  kRouter = 56,      ///< [experts][hidden]
  kRouterBias = 57,  ///< [experts]
  kSharedGate = 58,  ///< [1][hidden]; the shared expert's matrices are those of a dense MLP
  // Matrices of one expert each, and the biases of all experts of a layer.
  kExpertGate = 64,        ///< [experts' intermediate][hidden]
  kExpertUp = 65,          ///< likewise
  kExpertGateUp = 66,      ///< in place of the two: gate's rows, then up's
  kExpertDown = 67,        ///< [hidden][experts' intermediate]
  kExpertGateUpBias = 68,  ///< [experts][2 experts' intermediate]
  kExpertDownBias = 69,    ///< [experts][hidden]
  // Of Pooling::kAttention: a block of its own, with the heads, sizes, norms and activation of block 0.
  kPoolProbe = 80,  ///< [hidden], the query
  kPoolQkv = 81,    ///< [3 hidden][hidden]
  kPoolQkvBias = 82,
  kPoolOutput = 83,  ///< [hidden][hidden]
  kPoolOutputBias = 84,
  kPoolNorm = 85,
  kPoolNormBias = 86,
  kPoolUp = 87,  ///< [intermediate][hidden]
  kPoolUpBias = 88,
  kPoolDown = 89,  ///< [hidden][intermediate]
  kPoolDownBias = 90,
};
inline constexpr uint8_t kNumRoles = 91;  ///< above every role
/// Is there one tensor in each layer?
constexpr bool of_layer(Role role) { return role >= Role::kAttentionNorm && role < Role::kPoolProbe; }
/// Is there one tensor for each expert of each layer?
constexpr bool of_expert(Role role) { return role >= Role::kExpertGate && role <= Role::kExpertDown; }
const char* role_name(Role role);  ///< nullptr for a value that is none

}  // namespace nwc
