// What the configurations of most families have in common.
#pragma once

#include <functional>

#include "trainer/data/hf_family.h"

namespace nwc {

inline constexpr const char* kFullAttention = "full_attention";
inline constexpr const char* kSlidingAttention = "sliding_attention";

/// Defaults of a family's configuration class in transformers, and the names of its keys where they differ.
struct Habits {
  bool tied = false;
  uint32_t max_positions = 2048;
  const char* eps_key = "rms_norm_eps";
  float eps = 1e-6f;
  const char* activation_key = "hidden_act";
  const char* activation = "silu";
};

/// "field KEY is VALUE, it must be positive"
Status not_positive(const char* key, float value);

/// Sizes, biases, activation, rotary positions.
Status read_common(ConfigReader& c, const Habits& habits, ModelRecord* m, BlockSpec* b);
Status read_activation(ConfigReader& c, const Habits& habits, BlockSpec* b);
Status check_layers(uint32_t layers);

/// The window that the configuration names; 0: none.
Status read_window(ConfigReader& c, uint32_t fallback, uint32_t* window);
/// For each layer: does it slide? From "layer_types" where that is there, else as `fallback` says.
Status read_layer_types(ConfigReader& c, uint32_t layers, uint32_t window,
                        const std::function<bool(uint32_t layer)>& fallback, std::vector<bool>* slides);
/// The layers from max_window_layers on slide, or all of them, if any do.
Status read_qwen_windows(ConfigReader& c, bool all, uint32_t layers, uint32_t* window, std::vector<bool>* slides);
/// Layers of `block`, those that slide with the window. A window that no text leaves is none.
Status set_windows(const BlockSpec& block, const std::vector<bool>& slides, uint32_t window, ModelRecord* m);

}  // namespace nwc
