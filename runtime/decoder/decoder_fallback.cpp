// The fallback decoder: a device that fails while it decodes costs a warning and time, not the session.
#include <atomic>
#include <mutex>

#include "runtime/base/str_cat.h"
#include "runtime/decoder/decoder.h"

namespace nwc {
namespace {

class FallbackDecoder final : public Decoder {
 public:
  FallbackDecoder(std::unique_ptr<Decoder> device, const NwcFile& file, Runner& runner, const Logger& log)
      : file_(file),
        runner_(runner),
        log_(log),
        device_(std::move(device)),
        device_name_(device_->name()),
        name_(&device_name_),
        on_device_(device_->on_device()) {}

  const std::string& name() const override { return *name_.load(); }
  DeviceDecoder* on_device() override { return on_device_.load(); }
  Status decode(const DecodeRequest& request) override {
    return on_either([&](Decoder& decoder) { return decoder.decode(request); });
  }
  bool decodes_integers() const override { return true; }
  Status decode_integers(std::span<const IntegerRequest> requests) override {  // who asks for them computes on the CPU
    {
      const std::lock_guard lock(mutex_);
      if (device_ != nullptr) NWC_TRY(give_up(unsupported("the model runs on the CPU, with weights as integers")));
    }
    return cpu_->decode_integers(requests);
  }
  Status decode_to_buffers(std::span<const OwnersBufferRequest> requests, const Progress& progress) override {
    const std::lock_guard lock(mutex_);
    if (device_ == nullptr) return Decoder::decode_to_buffers(requests, progress);
    const Status status = device_->decode_to_buffers(requests, progress);
    // The CPU reaches no buffer of a device.
    if (device_failed(status)) NWC_TRY(give_up(status));
    return status;
  }
  Status decode_values(size_t tensor, std::span<int16_t> out) override {
    return on_either([&](Decoder& decoder) { return decoder.decode_values(tensor, out); });
  }

 private:
  template <typename F>
  Status on_either(F&& f) {
    {
      const std::lock_guard lock(mutex_);
      if (device_ != nullptr) {
        Status status = f(*device_);
        if (!device_failed(status)) return status;
        NWC_TRY(give_up(status));
      }
    }
    return f(*cpu_);
  }

  Status give_up(const Status& why) {
    NWC_ASSIGN_OR_RETURN(cpu_, create_cpu_decoder(file_, runner_, detect_cpu_level()));
    name_ = &cpu_->name();
    on_device_ = nullptr;
    device_.reset();  // what it holds of the device's memory and the host's goes back
    log_.log(LogLevel::kWarning,
             str_cat(device_name_, " is given up, ", cpu_->name(), " decodes from now on: ", why.message()));
    return {};
  }

  const NwcFile& file_;
  Runner& runner_;
  Logger log_;
  std::mutex mutex_;
  std::unique_ptr<Decoder> device_, cpu_;  ///< one of them
  const std::string device_name_;
  std::atomic<const std::string*> name_;
  std::atomic<DeviceDecoder*> on_device_;
};

}  // namespace

bool device_failed(const Status& status) {
  return status.code() == StatusCode::kDevice || status.code() == StatusCode::kDeviceLost ||
         status.code() == StatusCode::kOutOfMemory;
}

std::unique_ptr<Decoder> make_fallback_decoder(std::unique_ptr<Decoder> device, const NwcFile& file, Runner& runner,
                                               const Logger& log) {
  return std::make_unique<FallbackDecoder>(std::move(device), file, runner, log);
}

}  // namespace nwc
