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

/// What comes before the first block and after the last one.
struct EndsSpec {
  float embedding_scale = 1;
  uint32_t position_rows = 0;  ///< rows of learned position embeddings; 0: none
  bool final_norm = true;      ///< of the kind of block 0's norms
  bool head_bias = false;
  float logit_softcap = 0;  ///< logits become cap * tanh(logit / cap); 0: none
  float logit_scale = 1;
  bool operator==(const EndsSpec&) const = default;
};

/// Tensors of a model by what they do. The values are those of a MODEL section. Roles from kAttentionNorm on stand for
/// one tensor in each layer.
enum class Role : uint8_t {
  kEmbedding = 0,       ///< [vocab][hidden]
  kPositions = 1,       ///< [position_rows][hidden]
  kFinalNorm = 2,       ///< [hidden]
  kFinalNormBias = 3,   ///< [hidden]
  kHead = 4,            ///< [vocab][hidden]
  kHeadBias = 5,        ///< [vocab]
  kAttentionNorm = 16,  ///< [hidden], and so are all norms but those of q and k
  kAttentionNormBias = 17,
  kAttentionPostNorm = 18,
  kAttentionPostNormBias = 19,
  kMlpNorm = 20,
  kMlpNormBias = 21,
  kMlpPostNorm = 22,
  kMlpPostNormBias = 23,
  kQ = 32,  ///< [heads * head_dim][hidden]
  kK = 33,  ///< [kv_heads * head_dim][hidden]
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
};
inline constexpr uint8_t kFirstLayerRole = 16;
inline constexpr uint8_t kNumRoles = 70;  ///< above every role
/// Is there one tensor for each expert of each layer?
constexpr bool of_expert(Role role) { return role >= Role::kExpertGate && role <= Role::kExpertDown; }
const char* role_name(Role role);  ///< nullptr for a value that is none

}  // namespace nwc
