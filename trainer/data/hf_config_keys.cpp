#include "trainer/data/hf_config_keys.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string_view>

namespace nwc {
namespace {

using Json = nlohmann::json;

// A list of words with a space around each.
// Training, generation, file handling and parallel execution: none of it is part of what the model computes.
// pretraining_tp only splits products into sums of parts.
constexpr std::string_view kHarmless =
    " _attn_implementation _attn_implementation_autoset _commit_hash _flash_attn_2_enabled _from_model_config "
    "_name_or_path attention_dropout attention_probs_dropout_prob attn_dropout attn_implementation attn_pdrop "
    "bad_words_ids begin_suppress_tokens chunk_size_feed_forward decoder_start_token_id diversity_penalty "
    "do_sample dropout dtype early_stopping embd_pdrop encoder_no_repeat_ngram_size "
    "exponential_decay_length_penalty finetuning_task forced_bos_token_id forced_eos_token_id "
    "gradient_checkpointing hidden_dropout hidden_dropout_prob id2label initializer_range is_decoder "
    "is_llama_config label2id length_penalty max_length max_sequence_length max_window_layers min_length "
    "mlp_dropout model_max_length no_repeat_ngram_size num_beam_groups num_beams num_labels num_return_sequences "
    "output_attentions output_hidden_states output_scores pad_token_id prefix pretraining_tp problem_type "
    "remove_invalid_values repetition_penalty resid_pdrop residual_dropout return_dict return_dict_in_generate "
    "sep_token_id suppress_tokens task_specific_params temperature tf_legacy_loss tie_encoder_decoder "
    "tokenizer_class top_k top_p torch_dtype torchscript transformers.js_config transformers_version typical_p "
    "unk_token_id unsloth_fixed unsloth_version use_bfloat16 use_cache ";

// Keys that change results where a family has them, and the values, as JSON separated by '|', that change
// nothing. Null is always among them.
struct NeutralValue {
  std::string_view key, values;
};
constexpr NeutralValue kNeutral[] = {
    {"add_cross_attention", "false"},
    {"alibi", "false"},
    {"attention_bias", "false"},
    {"attention_chunk_size", ""},
    {"attention_multiplier", ""},
    {"attention_out_bias", "false"},
    {"attention_qkv_bias", "false"},
    {"attn_logit_softcapping", ""},
    {"attn_output_bias", "false"},
    {"bias", "false"},
    {"cache_implementation", ""},
    {"clip_qkv", ""},
    {"conv_bias", "false"},
    {"cross_attention_layers", "[]"},
    {"embedding_multiplier", "1"},
    {"expert_layer_period", ""},
    {"final_logit_softcapping", ""},
    {"first_k_dense_replace", ""},
    {"hidden_act", "\"silu\"|\"swish\""},
    {"hidden_activation", "\"silu\"|\"swish\""},
    {"interleaved_sliding_window", ""},
    {"is_causal", "true"},
    {"is_encoder_decoder", "false"},
    {"kv_lora_rank", "0"},
    {"layer_norm_eps", ""},
    {"lm_head_bias", "false"},
    {"lm_head_multiplier", "1"},
    {"logit_scale", "1"},
    {"logits_scaling", "1"},
    {"mlp_bias", "false"},
    {"moe_intermediate_size", "0"},
    {"mup_width_scale", "1"},
    {"n_routed_experts", "0"},
    {"n_shared_experts", "0"},
    {"no_rope_layer_interval", "0"},
    {"no_rope_layers", "[]"},
    {"norm_type", "\"rms_norm\"|\"rmsnorm\""},
    {"normalize_embedding", "false"},
    {"num_experts", "0"},
    {"num_experts_per_tok", "0"},
    {"num_local_experts", "0"},
    {"num_nextn_predict_layers", "0"},
    {"parallel_attn", "false"},
    {"position_embedding_type", "\"rope\"|\"rotary\""},
    {"pruned_heads", "{}"},
    {"q_lora_rank", "0"},
    {"qk_layernorm", "false"},
    {"qk_norm", "false"},
    {"qkv_bias", "false"},
    {"query_pre_attn_scalar", ""},
    {"residual_multiplier", "1"},
    {"rope_interleaved", "false"},
    {"rope_local_base_freq", ""},
    {"rope_pct", "1"},
    {"rotary_dim", ""},
    {"rotary_pct", "1"},
    {"scale_depth", "1"},
    {"scale_emb", "1"},
    {"scale_embedding", "false"},
    {"shared_intermediate_size", "0"},
    {"sliding_window_pattern", ""},
    {"sliding_window_size", ""},
    {"use_bias", "false"},
    {"use_gated_rmsnorm", "false"},
    {"use_parallel_residual", "false"},
    {"use_qk_norm", "false"},
    {"use_qkv_bias", "false"},
};

bool contains(std::string_view list, const std::string& key) {
  return key.find(' ') == key.npos && list.find(" " + key + " ") != list.npos;
}

bool is_neutral(const Json& value, std::string_view values) {
  while (!values.empty()) {
    const size_t end = std::min(values.find('|'), values.size());
    if (value == Json::parse(values.substr(0, end))) return true;
    values.remove_prefix(std::min(end + 1, values.size()));
  }
  return false;
}

}  // namespace

Status check_config_keys(const ConfigReader& config, std::vector<std::string>* unknown) {
  for (const auto& item : config.json().items()) {
    const std::string& key = item.key();
    const Json& value = item.value();
    if (value.is_null() || config.was_read(key) || contains(kHarmless, key)) continue;
    const auto* rule =
        std::find_if(std::begin(kNeutral), std::end(kNeutral), [&](const NeutralValue& n) { return n.key == key; });
    if (rule == std::end(kNeutral)) {
      unknown->push_back(key);
    } else if (!is_neutral(value, rule->values)) {
      return unsupported("\"" + key + "\" is " + short_json(value) + ", which the engine does not run (it runs " +
                         (rule->values.empty() ? "null" : std::string(rule->values)) + ")");
    }
  }
  return {};
}

}  // namespace nwc
