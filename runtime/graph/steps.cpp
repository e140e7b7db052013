#include "runtime/graph/steps.h"

#include "runtime/base/str_cat.h"

namespace nwc {
namespace {

/// Appends steps; what attention and the MLP have in common is written once.
class Expander {
 public:
  explicit Expander(const BlockSpec& spec) : spec_(spec) {}

  std::vector<Step> expand() {
    const Slot attention_in = input(Role::kAttentionNorm, Role::kAttentionNormBias);
    product(Linear::kQkv, attention_in, Slot::kQkv);
    if (spec_.qk_norm != QkNorm::kNone) in_place(StepKind::kQkNorm, Slot::kQkv);
    if (spec_.positions != Positions::kNone || spec_.temperature_beta != 0) in_place(StepKind::kRotate, Slot::kQkv);
    steps_.push_back({StepKind::kAttend, Slot::kQkv, Slot::kAttended});
    if (spec_.parallel == Parallel::kNone) {
      output(Linear::kOutput, Slot::kAttended, kAfterAttention);
      mlp(input(Role::kMlpNorm, Role::kMlpNormBias));
    } else {
      // The MLP's input has to be taken before attention is added to the residual stream.
      Slot mlp_in = Slot::kNormed;
      product(Linear::kOutput, Slot::kAttended, Slot::kBranch);
      finish_branch(kAfterAttention);
      if (spec_.parallel == Parallel::kOwnNorm) norm(Slot::kResidual, mlp_in, Role::kMlpNorm, Role::kMlpNormBias);
      add();
      mlp(mlp_in);
    }
    return std::move(steps_);
  }

 private:
  /// Roles of what comes behind attention, and behind the MLP.
  struct After {
    Role gain, bias, scale;
  };
  static constexpr After kAfterAttention = {Role::kAttentionPostNorm, Role::kAttentionPostNormBias,
                                            Role::kAttentionScale};
  static constexpr After kAfterMlp = {Role::kMlpPostNorm, Role::kMlpPostNormBias, Role::kMlpScale};

  void norm(Slot in, Slot out, Role gain, Role bias) {
    Step step{StepKind::kNorm, in, out};
    step.gain = gain;
    step.bias = bias;
    steps_.push_back(step);
  }
  void product(Linear linear, Slot in, Slot out, bool accumulate = false) {
    Step step{StepKind::kLinear, in, out};
    step.linear = linear;
    step.accumulate = accumulate;
    steps_.push_back(step);
  }
  void in_place(StepKind kind, Slot slot) { steps_.push_back({kind, slot, slot}); }
  void add() {
    Step step{StepKind::kAdd, Slot::kBranch, Slot::kResidual};
    step.scale = spec_.residual_scale;
    steps_.push_back(step);
  }
  /// Where attention or the MLP reads.
  Slot input(Role gain, Role bias) {
    if (!spec_.norm_before) return Slot::kResidual;
    norm(Slot::kResidual, Slot::kNormed, gain, bias);
    return Slot::kNormed;
  }
  /// What happens to a branch before it is added.
  void finish_branch(const After& after) {
    if (spec_.norm_after) norm(Slot::kBranch, Slot::kBranch, after.gain, after.bias);
    if (!spec_.layer_scale) return;
    Step step{StepKind::kScale, Slot::kBranch, Slot::kBranch};
    step.gain = after.scale;
    steps_.push_back(step);
  }
  /// Adds a branch to the residual stream.
  void add_branch(const After& after) {
    finish_branch(after);
    add();
    norm_sum(after);
  }
  void norm_sum(const After& after) {
    if (spec_.norm_sum) norm(Slot::kResidual, Slot::kResidual, after.gain, after.bias);
  }
  /// What a product adds to the residual stream, at once where nothing comes in between.
  void output(Linear linear, Slot in, const After& after) {
    if (!spec_.norm_after && !spec_.layer_scale && spec_.residual_scale == 1 && !has_bias(spec_, linear)) {
      product(linear, in, Slot::kResidual, true);
      norm_sum(after);
      return;
    }
    product(linear, in, Slot::kBranch);
    add_branch(after);
  }
  void experts(Slot in) {
    const bool shared = spec_.experts.shared_intermediate_size != 0;
    steps_.push_back({StepKind::kRoute, in, Slot::kRouted});
    if (shared) {
      product(Linear::kGateUp, in, Slot::kInner);
      in_place(StepKind::kActivate, Slot::kInner);
      if (spec_.experts.shared_gate) in_place(StepKind::kShare, Slot::kInner);
      product(Linear::kDown, Slot::kInner, Slot::kBranch);
    }
    Step step{StepKind::kExperts, in, Slot::kBranch};
    step.accumulate = shared;
    steps_.push_back(step);
    add_branch(kAfterMlp);
  }
  void mlp(Slot in) {
    if (spec_.experts.num_experts != 0) return experts(in);
    product(Linear::kGateUp, in, Slot::kInner);
    in_place(StepKind::kActivate, Slot::kInner);
    output(Linear::kDown, Slot::kInner, kAfterMlp);
  }

  const BlockSpec& spec_;
  std::vector<Step> steps_;
};

const char* slot_name(Slot slot) {
  constexpr const char* kNames[kNumSlots] = {"residual", "normed", "branch", "qkv", "attended", "inner", "routed"};
  return kNames[static_cast<uint32_t>(slot)];
}

const char* linear_name(Linear linear) {
  constexpr const char* kNames[kNumLinears] = {"qkv", "output", "gate_up", "down"};
  return kNames[static_cast<uint32_t>(linear)];
}

}  // namespace

std::vector<Step> block_steps(const BlockSpec& spec) { return Expander(spec).expand(); }

bool has_bias(const BlockSpec& spec, Linear linear) {
  switch (linear) {
    case Linear::kQkv: return spec.qkv_bias;
    case Linear::kOutput: return spec.output_bias;
    default: return spec.mlp_bias;
  }
}

uint32_t slot_width(const BlockSpec& spec, uint32_t hidden_size, Slot slot) {
  switch (slot) {
    case Slot::kQkv: return spec.q_width() + 2 * spec.kv_width();
    case Slot::kAttended: return spec.q_width();
    case Slot::kInner: return spec.gated ? 2 * spec.dense_width() : spec.dense_width();
    case Slot::kRouted: return spec.experts.num_experts != 0 ? 2 * spec.experts.per_token + 1 : 0;
    default: return hidden_size;
  }
}

std::string describe(const std::vector<Step>& steps) {
  std::string text;
  for (const Step& step : steps) {
    const char* in = slot_name(step.in);
    const char* out = slot_name(step.out);
    switch (step.kind) {
      case StepKind::kNorm: text += str_cat(out, " = norm(", in, ") by the ", role_name(step.gain)); break;
      case StepKind::kLinear:
        text += str_cat(out, step.accumulate ? " += " : " = ", linear_name(step.linear), "(", in, ")");
        break;
      case StepKind::kQkNorm: text += str_cat(out, " = norms of queries and keys"); break;
      case StepKind::kRotate: text += str_cat(out, " = rotated queries and keys"); break;
      case StepKind::kAttend: text += str_cat(out, " = attend(", in, ")"); break;
      case StepKind::kActivate: text += str_cat(out, " = activate(", in, ")"); break;
      case StepKind::kScale: text += str_cat(out, " = ", in, " times the ", role_name(step.gain)); break;
      case StepKind::kAdd:
        text += str_cat(out, " += ", step.scale == 1 ? "" : std::to_string(step.scale) + " * ", in);
        break;
      case StepKind::kRoute: text += str_cat(out, " = route(", in, ")"); break;
      case StepKind::kExperts:
        text += str_cat(out, step.accumulate ? " += " : " = ", "experts(", in, ") by routed");
        break;
      case StepKind::kShare: text += str_cat(out, " = ", in, " by the shared expert's gate"); break;
    }
    text += "\n";
  }
  return text;
}

}  // namespace nwc
