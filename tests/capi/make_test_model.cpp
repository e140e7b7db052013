// make_test_model SOURCE OUTPUT.nwc [NOT_RUN.nwc] writes one or two small files for the tests of the C API. Both have
// the first four blocks of the model in the folder SOURCE, coded, its tokenizer, a ChatML template, and an i32 tensor,
// which no decoder converts. OUTPUT.nwc has a quality card. NOT_RUN.nwc is made of the same folder with a config.json
// of an architecture that does not exist.
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "tests/encode/synthetic_codec.h"
#include "trainer/codec/container_write.h"
#include "trainer/encode/encoder.h"

namespace nwc {
namespace {

constexpr uint32_t kBlocks = 4;

class SmallSource final : public ModelSource {
 public:
  explicit SmallSource(std::unique_ptr<ModelSource> full) : full_(std::move(full)) {
    model_ = full_->model();
    if (model_) model_->num_layers = kBlocks;
    for (size_t i = 0; i < full_->tensors().size(); ++i) {
      const SourceTensor& t = full_->tensors()[i];
      const std::string prefix = "model.layers.";
      const bool in_other_block = t.name.rfind(prefix, 0) == 0 && std::stoul(t.name.substr(prefix.size())) >= kBlocks;
      if (in_other_block) continue;
      tensors_.push_back(t);
      origin_.push_back(i);
    }
    SourceTensor ids;
    ids.name = "extra.ids";
    ids.dtype = Dtype::kI32;
    ids.stored_type = "I32";
    ids.shape = {2, 3};
    tensors_.push_back(ids);
  }
  const std::vector<SourceTensor>& tensors() const override { return tensors_; }
  Status read_raw(size_t tensor, MutableBytes out) const override {
    if (tensor < origin_.size()) return full_->read_raw(origin_[tensor], out);
    for (uint32_t i = 0; i < 6; ++i) store_le<uint32_t>(out.data() + 4 * i, 100 + i);
    return {};
  }
  const std::optional<ModelRecord>& model() const override { return model_; }
  const std::optional<TokenizerRecord>& tokenizer() const override { return full_->tokenizer(); }
  uint64_t stored_bytes() const override { return full_->stored_bytes(); }
  const SourceNotes& notes() const override { return full_->notes(); }
  /// A chat template, which the model itself has no use for.
  Result<SourceFiles> source_files() const override {
    static constexpr std::string_view kChatMl =
        "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + "
        "'<|im_end|>\\n'}}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";
    SourceFiles files;
    files.record.files.push_back({"chat_template.jinja", {kChatMl.begin(), kChatMl.end()}});
    return files;
  }

 private:
  std::unique_ptr<ModelSource> full_;
  std::vector<SourceTensor> tensors_;
  std::vector<size_t> origin_;
  std::optional<ModelRecord> model_;
};

Status make_model(const std::string& from, const std::string& to) {
  NWC_ASSIGN_OR_RETURN(std::unique_ptr<ModelSource> full, open_model_source(from));
  const SmallSource source(std::move(full));
  CompressOptions options;
  options.bits = 5;
  options.keep_source = false;
  options.source_name = "gutenlm-2.6m, four blocks";
  return compress_model(source, testing::synthetic_codec(), options, to, {}, {}).status();
}

/// Copies the model folder `from` to `to`, with another model type in its config.json.
Status copy_with_unknown_type(const std::filesystem::path& from, const std::filesystem::path& to) {
  std::filesystem::remove_all(to);
  std::filesystem::copy(from, to);
  std::ifstream in(from / "config.json");
  std::string config((std::istreambuf_iterator<char>(in)), {});
  const std::string type = "\"model_type\": \"llama\"";
  const size_t at = config.find(type);
  if (at == std::string::npos) return invalid_argument("config.json has no " + type);
  config.replace(at, type.size(), "\"model_type\": \"imaginary\"");
  std::ofstream(to / "config.json") << config;
  return {};
}

Status make_models(const std::string& from, const std::string& to, const std::string& not_run) {
  NWC_TRY(make_model(from, to));
  NWC_TRY(replace_quality(to, to, {{"text", "none"}, {"bpw_coded", "5.00"}}));
  if (not_run.empty()) return {};
  NWC_TRY(copy_with_unknown_type(from, not_run + ".source"));
  return make_model(not_run + ".source", not_run);
}

}  // namespace
}  // namespace nwc

int main(int argc, char** argv) {
  if (argc != 3 && argc != 4) {
    std::fprintf(stderr, "usage: make_test_model SOURCE OUTPUT.nwc [NOT_RUN.nwc]\n");
    return 2;
  }
  const nwc::Status status = nwc::make_models(argv[1], argv[2], argc == 4 ? argv[3] : "");
  if (!status.ok()) std::fprintf(stderr, "%s\n", status.message().c_str());
  return status.ok() ? 0 : 1;
}
