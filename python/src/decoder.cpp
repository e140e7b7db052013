// Decoders: stored tensors into memory of the caller.
#include "handles.h"

namespace nwc_python {
namespace {

class Decoder {
 public:
  Decoder(const Model& model, uint32_t backend, const std::string& device, uint32_t threads, bool checksums)
      : model_(model.handle) {
    nwc_decoder_params params;
    nwc_decoder_params_init(&params);
    params.backend = backend;
    params.device_name = device.empty() ? nullptr : device.c_str();
    params.num_threads = threads;
    params.skip_checksums = checksums ? 0 : 1;
    ErrorText error;
    nwc_status status;
    {
      const nb::gil_scoped_release free;
      status = nwc_decoder_create(model_->model, &params, error.get(), &decoder_);
    }
    check(status, error.text());
  }
  ~Decoder() { nwc_decoder_destroy(decoder_); }
  Decoder(const Decoder&) = delete;
  Decoder& operator=(const Decoder&) = delete;

  nb::str name() const { return text_of(nwc_decoder_name(decoder_)); }

  /// Rows [begin, end) to `address`, which has size_bytes bytes and is kept alive by the caller.
  void decode_rows(uint32_t tensor, uint64_t begin, uint64_t end, uint32_t dtype, uintptr_t address, size_t size_bytes,
                   nb::object progress) {
    PythonProgress callback(std::move(progress));
    const Failure done = call_alone(
        mutex_,
        [&] {
          return nwc_decoder_decode_rows(decoder_, tensor, begin, end, dtype, callback.callback(), callback.user(),
                                         reinterpret_cast<void*>(address), size_bytes);
        },
        [&] { return nwc_decoder_last_error(decoder_); });
    callback.check(done.status, done.text.c_str());
  }

 private:
  std::shared_ptr<ModelHandle> model_;
  nwc_decoder* decoder_ = nullptr;
  std::mutex mutex_;
};

}  // namespace

void bind_decoder(nb::module_& m) {
  nb::class_<Decoder>(m, "Decoder")
      .def(nb::init<const Model&, uint32_t, const std::string&, uint32_t, bool>())
      .def_prop_ro("name", &Decoder::name)
      .def("decode_rows", &Decoder::decode_rows, nb::arg("tensor"), nb::arg("begin"), nb::arg("end"), nb::arg("dtype"),
           nb::arg("address"), nb::arg("size_bytes"), nb::arg("progress").none());
}

}  // namespace nwc_python
