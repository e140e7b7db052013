#include "host-tools/embedder.h"

#include <algorithm>
#include <filesystem>
#include <sstream>

#include "host-tools/quality.h"
#include "trainer/data/fs_path.h"

namespace nwc::cli {

Result<Embedder> Embedder::open(const std::string& path, const SessionParams& params, const DeviceOptions& device,
                                const Context& context, double share) {
  Embedder out;
  NWC_ASSIGN_OR_RETURN(out.eval_, open_eval_model(path, params, device, context, share));
  if (!out.model().is_encoder())
    return unsupported(path + ": predicts tokens and gives no embeddings; nwc run and nwc eval --text are for it");
  if (out.of_images()) {
    Result<ImagePreparation> preparation = load_image_preparation(out.eval_);
    if (!preparation.ok()) return preparation.status().with_context(path);
    out.preparation_ = std::move(preparation).value();
  }
  return out;
}

Result<Embedder::TextTokens> Embedder::tokens_of(const std::string& text) const {
  TextTokens out;
  const Tokenizer& tokenizer = *eval_.tokenizer;
  NWC_ASSIGN_OR_RETURN(out.ids, tokenizer.encode(text, {.add_special = true, .add_end = true}));
  const size_t most = eval_.session->context();
  if (out.ids.size() <= most) return out;
  NWC_ASSIGN_OR_RETURN(const std::vector<uint32_t> open_ended, tokenizer.encode(text, {.add_special = true}));
  const size_t behind = std::min(out.ids.size() - std::min(out.ids.size(), open_ended.size()), most);
  out.cut = out.ids.size() - most;
  const auto end = out.ids.end() - static_cast<std::ptrdiff_t>(behind);
  out.ids.erase(end - static_cast<std::ptrdiff_t>(out.cut), end);
  return out;
}

Result<std::vector<float>> Embedder::embed_text(const std::string& text) {
  if (of_images()) return unsupported("the model is an encoder of images, and was given a text");
  NWC_ASSIGN_OR_RETURN(const TextTokens tokens, tokens_of(text));
  num_cut_ += tokens.cut != 0 ? 1 : 0;
  std::vector<float> embedding(model().embedding_size());
  NWC_TRY(eval_.session->embed(tokens.ids, {}, embedding));
  return embedding;
}

Result<std::vector<float>> Embedder::pixels_of(const std::string& path) const {
  if (!of_images()) return unsupported("the model is an encoder of texts, and was given an image");
  NWC_ASSIGN_OR_RETURN(const Picture picture, read_png(path));
  Result<std::vector<float>> pixels = prepare_picture(picture, preparation_, model());
  if (!pixels.ok()) return pixels.status().with_context(path);
  return pixels;
}

Result<std::vector<float>> Embedder::embed_png(const std::string& path) {
  NWC_ASSIGN_OR_RETURN(const std::vector<float> pixels, pixels_of(path));
  std::vector<float> embedding(model().embedding_size());
  NWC_TRY(eval_.session->embed_image(pixels, {}, embedding));
  return embedding;
}

Result<std::span<const float>> Embedder::png_states(const std::string& path) {
  NWC_ASSIGN_OR_RETURN(const std::vector<float> pixels, pixels_of(path));
  return eval_.session->image_states(pixels);
}

Result<Embeddings> Embedder::embed_all(const std::vector<std::string>& inputs, bool pictures, const Context& context,
                                       double share) {
  ProgressLine progress(context, "embedding", share);
  Embeddings out;
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (!progress.callback().report(i, inputs.size())) return Status(StatusCode::kCancelled, "embedding was cancelled");
    NWC_ASSIGN_OR_RETURN(std::vector<float> embedding, pictures ? embed_png(inputs[i]) : embed_text(inputs[i]));
    out.push_back(std::move(embedding));
  }
  progress.callback().report(inputs.size(), inputs.size());
  return out;
}

Result<std::vector<std::string>> read_lines(const std::string& path) {
  NWC_ASSIGN_OR_RETURN(const std::string text, read_text(path));
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) {
    while (!line.empty() && line.back() == '\r') line.pop_back();
    if (!line.empty()) lines.push_back(std::move(line));
  }
  if (lines.empty()) return invalid_argument(path + ": has no text");
  return lines;
}

Result<std::vector<std::string>> list_pictures(const std::string& folder) {
  std::vector<std::string> paths;
  std::error_code error;
  for (std::filesystem::directory_iterator it(fs_path(folder), error), end; !error && it != end; it.increment(error)) {
    std::string extension = it->path().extension().string();
    std::transform(extension.begin(), extension.end(), extension.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    if (extension == ".png") paths.push_back(it->path().string());
  }
  if (error) return io_error(folder + ": " + error.message());
  if (paths.empty()) return invalid_argument(folder + ": has no .png file");
  std::sort(paths.begin(), paths.end());
  return paths;
}

}  // namespace nwc::cli
