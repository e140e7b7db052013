// The CPU backend: runtime/codec behind the decoder interface.
#include "runtime/base/str_cat.h"
#include "runtime/decoder/raw_tensor.h"

namespace nwc {
namespace {

class CpuDecoder final : public Decoder {
 public:
  CpuDecoder(const NwcFile& file, Runner& runner, CpuLevel cpu)
      : file_(file), runner_(runner), cpu_(cpu), name_(str_cat("cpu ", cpu_level_name(cpu))) {
    if (!file.codec()) return;
    tables_ = build_decode_tables(*file.codec());
    tensors_ = std::make_unique<TensorDecoder>(file, tables_);
  }

  const std::string& name() const override { return name_; }

  Status decode(const DecodeRequest& request) override {
    NWC_TRY(check_request(file_, request));
    if (file_.tensors()[request.tensor].storage != Storage::kCoded) return decode_raw_rows(file_, request);
    TensorDecodeOptions options;
    options.cpu = cpu_;
    options.check_crc = request.check_crc;
    options.progress = request.progress;
    return tensors_->decode_rows(request.tensor, request.row_begin, request.row_end, request.dtype, request.out,
                                 runner_, options);
  }

  bool decodes_integers() const override { return true; }
  Status decode_integers(std::span<const IntegerRequest> requests) override {
    if (tensors_ == nullptr) return unsupported("the file has no codec, and so no integers");
    TensorDecodeOptions options;
    options.cpu = cpu_;
    return nwc::decode_integers(*tensors_, requests, runner_, options);
  }

  Status decode_values(size_t tensor, std::span<int16_t> out) override {
    TensorDecodeOptions options;
    options.cpu = cpu_;
    return decode_tensor_values(file_, tables_, tensor, out, runner_, options);
  }

 private:
  const NwcFile& file_;
  Runner& runner_;
  CpuLevel cpu_;
  std::string name_;
  DecodeTables tables_;
  std::unique_ptr<TensorDecoder> tensors_;  ///< null: nothing is coded
};

}  // namespace

Status Decoder::decode_integers(std::span<const IntegerRequest>) {
  return unsupported(str_cat(name(), " does not decode to integers"));
}

Status Decoder::decode_to_buffers(std::span<const OwnersBufferRequest>, const Progress&) {
  return unsupported(str_cat(name(), " reaches no buffer of a Vulkan device"));
}

Result<std::unique_ptr<Decoder>> create_cpu_decoder(const NwcFile& file, Runner& runner, CpuLevel cpu) {
  return std::unique_ptr<Decoder>(std::make_unique<CpuDecoder>(file, runner, cpu));
}

}  // namespace nwc
