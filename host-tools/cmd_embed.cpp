// nwc embed: embeddings of texts or pictures.

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "host-tools/embedder.h"
#include "runtime/engine/weight_type.h"
#include "trainer/eval/compare_embeddings.h"

namespace nwc::cli {
namespace {

struct EmbedCommand {
  std::string model, text_file, weights = "auto";
  std::vector<std::string> texts, images;
  DeviceOptions device;
};

/// A line for each input: its numbers, or how near the inputs are to each other, which is what people look for.
void print_embeddings(const std::vector<std::string>& inputs, const Embeddings& embeddings) {
  if (inputs.size() == 1) {
    for (size_t i = 0; i < embeddings[0].size(); ++i) fmt::print("{}{:.6g}", i == 0 ? "" : " ", embeddings[0][i]);
    fmt::print("\n");
    return;
  }
  fmt::print("cosine similarity\n");
  for (size_t i = 0; i < inputs.size(); ++i) {
    for (size_t j = 0; j <= i; ++j) fmt::print("{:8.4f}", cosine(embeddings[i], embeddings[j]));
    fmt::print("  {}\n", inputs[i].size() <= 60 ? inputs[i] : inputs[i].substr(0, 57) + "...");
  }
}

Status embed(EmbedCommand& command, const Context& context) {
  if (!command.text_file.empty()) {
    NWC_ASSIGN_OR_RETURN(std::vector<std::string> lines, read_lines(command.text_file));
    command.texts.insert(command.texts.end(), lines.begin(), lines.end());
  }
  if (command.texts.empty() == command.images.empty())
    return invalid_argument("give texts with --text or --text-file, or pictures with --image");
  SessionParams params;
  ask_for(weight_type_named(command.weights), &params);
  NWC_ASSIGN_OR_RETURN(Embedder embedder, Embedder::open(command.model, params, command.device, context));
  const bool pictures = !command.images.empty();
  const std::vector<std::string>& inputs = pictures ? command.images : command.texts;
  NWC_ASSIGN_OR_RETURN(const Embeddings embeddings, embedder.embed_all(inputs, pictures, context));
  if (embedder.num_cut() != 0)
    context.warn_once(fmt::format("{} of {} texts are cut to the {} tokens that the model takes", embedder.num_cut(),
                                  inputs.size(), embedder.eval_model().session->context()));
  if (!context.json) {
    print_embeddings(inputs, embeddings);
    return {};
  }
  nlohmann::json list = nlohmann::json::array();
  for (size_t i = 0; i < inputs.size(); ++i)
    list.push_back({{pictures ? "image" : "text", inputs[i]}, {"embedding", embeddings[i]}});
  context.print_json({{"model", command.model},
                      {"size", embedder.model().embedding_size()},
                      {"cut", embedder.num_cut()},
                      {"embeddings", list}});
  return {};
}

}  // namespace

void add_embed(CommandLine& line, Context& context) {
  auto command = std::make_shared<EmbedCommand>();
  Command sub = line.add_command("embed", "Embed texts or pictures: numbers, or how similar they are");
  sub.add_option("model", command->model, "An encoder: .nwc file or Hugging Face folder").required();
  Option text = sub.add_option("--text", command->texts, "A text; may be given several times").one_at_a_time();
  Option file =
      sub.add_option("--text-file", command->text_file, "A UTF-8 file with a text in each line").existing_file();
  sub.add_option("--image", command->images, "A PNG file; may be given several times")
      .one_at_a_time()
      .excludes(text)
      .excludes(file);
  sub.add_option("--weights", command->weights,
                 "What decoded weights are held as: packed or q8 (integers), f16, bf16, f32; auto: as in nwc run")
      .one_of({"auto", "f32", "f16", "bf16", "q8", "packed"})
      .show_default();
  add_device_options(sub, command->device);
  add_common_options(sub, context);
  sub.on_run([command, &context] { run_command(context, "embed", [&] { return embed(*command, context); }); });
}

}  // namespace nwc::cli
