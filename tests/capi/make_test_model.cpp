// make_test_model <source model folder> <output.nwc>: a small file for the tests of the C API. The first four blocks of
// the source, coded, with its tokenizer; besides an i32 tensor, which no decoder converts, and a quality card.
#include <cstdio>

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
    model_->num_layers = kBlocks;
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
  options.source_name = "gutenlm-2.6m, four blocks";
  NWC_TRY(compress_model(source, testing::synthetic_codec(), options, to, {}, {}));
  return replace_quality(to, to, {{"text", "none"}, {"bpw_coded", "5.00"}});
}

}  // namespace
}  // namespace nwc

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: make_test_model <source model folder> <output.nwc>\n");
    return 2;
  }
  const nwc::Status status = nwc::make_model(argv[1], argv[2]);
  if (!status.ok()) std::fprintf(stderr, "%s\n", status.message().c_str());
  return status.ok() ? 0 : 1;
}
