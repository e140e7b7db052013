#include "host-tools/run_options.h"

#include "nwc/nwc.h"

namespace nwc::cli {

std::vector<std::string> weight_names() {
  std::vector<std::string> names;
  for (nwc_precision p = NWC_PRECISION_DEFAULT; p <= NWC_PRECISION_PACKED; ++p)
    names.emplace_back(nwc_session_precision_string(p));
  return names;
}

void add_run_options(Command command, RunOptions* options) {
  command.add_option("model", options->model, ".nwc file, Hugging Face folder or .gguf file").required();
  const Option prompt = command.add_option("-p,--prompt", options->prompt, "Text to continue");
  command.add_option("--prompt-file", options->prompt_file, "Read the prompt from a file; -: from stdin")
      .excludes(prompt);
  const Option chat =
      command.add_flag("--chat", options->chat,
                       "Take the prompt as a question to an instruct model and print its answer; without a "
                       "prompt, a conversation: questions are read from stdin, line by line");
  command.add_option("--system", options->system, "With --chat: the system text").needs(chat);
  command
      .add_flag("--special", options->special,
                "Read control tokens that are written out in the prompt, like <|im_start|>, as such")
      .excludes(chat);
  command
      .add_option("-n,--tokens", options->max_tokens,
                  "Tokens to generate at most; 0: none. --chat: by default until the answer ends")
      .show_default();
  command
      .add_option(
          "--mode", options->mode,
          "Where the weights are while the model runs: resident (all decoded once), cached (as many layers as fit), "
          "streamed (layers are decoded again for every token), fused (they stay compressed); auto takes what fits")
      .one_of({"auto", "resident", "cached", "streamed", "fused"})
      .show_default();
  command
      .add_option(
          "--weights", options->weights,
          "What decoded weights are held as: packed or q8 (the coded integers, exactly, in 4 to 8 bits; of a "
          "codec with a network its weights, rounded to 8 bits), f16, bf16, f32; auto: where the integers are "
          "exact, the faster one of packed and q8, measured in some 30 ms, or packed where q8 does not fit into "
          "--memory; else f16, and f32 for models that are not compressed")
      .one_of(weight_names())
      .show_default();
  command.add_option(
      "--memory", options->memory,
      "What weights, caches and buffers may take at most, like 600M or 1.5G (default: no limit). The process takes "
      "some MiB beside, for program, metadata and tokenizer; --plan says both");
  command
      .add_option("--context", options->context,
                  "Tokens of prompt and answer together that the model sees (default: the model's maximum, at most "
                  "8192)")
      .range(1u, UINT32_MAX);
  command
      .add_option("--temperature", options->temperature,
                  "How random the choice of a token is, 0 to 100; 0 always takes the likeliest")
      .range(0.0, 100.0)
      .show_default();
  command.add_option("--top-k", options->top_k, "Draw among the k likeliest tokens; 0: all").show_default();
  command
      .add_option("--top-p", options->top_p,
                  "Draw among the likeliest tokens that together have this probability, 0 to 1; 0: the likeliest alone")
      .range(0.0, 1.0)
      .show_default();
  command
      .add_option(
          "--min-p", options->min_p,
          "Of what these leave, draw among the tokens at least so many times as probable as the likeliest, 0 to "
          "1; 0: all")
      .range(0.0, 1.0)
      .show_default();
  command
      .add_option("--repetition-penalty", options->repetition_penalty,
                  "Divide positive and multiply negative logits of tokens that the text has drawn already; 1: off")
      .range(0.01, 100.0)
      .show_default();
  command
      .add_option("--presence-penalty", options->presence_penalty,
                  "Subtract this from the logits of tokens that the text has drawn already, -100 to 100")
      .range(-100.0, 100.0)
      .show_default();
  command
      .add_option("--frequency-penalty", options->frequency_penalty,
                  "Subtract this from a token's logit as often as the text has drawn it, -100 to 100")
      .range(-100.0, 100.0)
      .show_default();
  command.add_option("--stop", options->stop, "End the text in front of this one; may be given several times")
      .one_at_a_time();
  command.add_option("--seed", options->seed, "Seed of the random choices: the same seed, the same text")
      .show_default();
  command.add_flag("--greedy", options->greedy, "The same as --temperature 0").excludes("--temperature");
  command.add_flag("--ignore-eos", options->ignore_eos, "Do not stop at an end-of-text token");
  command.add_flag("--no-echo", options->no_echo, "Do not print the prompt before the text");
  command.add_flag("--plan", options->plan_only, "Print what memory and time it would take, and stop");
  command
      .add_option("--warn-above", options->warn_above,
                  "Warn if a token is expected to take longer than so many seconds, from a measurement of some 0.1 s; "
                  "0: do not measure")
      .not_negative()
      .show_default();
  options->device.backend = "auto";
  add_device_options(command, options->device);
}

}  // namespace nwc::cli
