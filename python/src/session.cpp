// Sessions: evaluation, generation, embeddings.
#include <nanobind/stl/vector.h>

#include <vector>

#include "handles.h"

namespace nwc_python {
namespace {

class Session {
 public:
  Session(const Model& model, const nb::dict& options, nb::object progress) : model_(model.handle) {
    nwc_session_params params;
    nwc_session_params_init(&params);
    const std::string device = nb::cast<std::string>(options["device"]);
    params.backend = nb::cast<uint32_t>(options["backend"]);
    params.device_name = device.empty() ? nullptr : device.c_str();
    params.num_threads = nb::cast<uint32_t>(options["threads"]);
    params.mode = nb::cast<uint32_t>(options["mode"]);
    params.context = nb::cast<uint32_t>(options["context"]);
    params.weight_precision = nb::cast<uint32_t>(options["weights"]);
    params.memory_budget_bytes = nb::cast<uint64_t>(options["memory"]);
    ErrorText error;
    PythonProgress callback(std::move(progress));
    nwc_status status;
    {
      const nb::gil_scoped_release free;
      status = nwc_session_create(model_->model, &params, callback.callback(), callback.user(), error.get(), &session_);
    }
    callback.check(status, error.text());
  }
  ~Session() { nwc_session_destroy(session_); }
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  nb::str name() const { return text_of(nwc_session_name(session_)); }
  uint32_t position() {
    const nb::gil_scoped_release free;
    const std::lock_guard lock(mutex_);
    return nwc_session_position(session_);
  }
  void truncate(uint32_t position) {
    call([&] { return nwc_session_truncate(session_, position); });
  }

  nb::dict plan() {
    nwc_session_plan p;
    nwc_session_plan_init(&p);
    call([&] { return nwc_session_get_plan(session_, &p); });
    nb::dict d;
    d["mode"] = p.mode;
    d["context"] = p.context;
    d["batch"] = p.batch;
    d["total_bytes"] = p.total_bytes;
    d["weights"] = nwc_session_precision_string(p.weight_precision);
    return d;
  }

  void eval(const std::vector<uint32_t>& tokens, uint32_t which, uintptr_t address, size_t capacity) {
    call([&] {
      return nwc_session_eval(session_, tokens.data(), tokens.size(), which, reinterpret_cast<float*>(address),
                              capacity);
    });
  }

  void embed(const std::vector<uint32_t>& tokens, uintptr_t address, size_t capacity) {
    call([&] {
      return nwc_session_embed(session_, tokens.data(), tokens.size(), nullptr, 0, reinterpret_cast<float*>(address),
                               capacity);
    });
  }
  void embed_image(uintptr_t pixels, size_t num_pixels, uintptr_t address, size_t capacity) {
    call([&] {
      return nwc_session_embed_image(session_, reinterpret_cast<const float*>(pixels), num_pixels, nullptr, 0,
                                     reinterpret_cast<float*>(address), capacity);
    });
  }

  /// Calls on_token(token, bytes) for each token; False stops. Returns the number of the stop reason. Signals are
  /// looked at after every token, so that Ctrl-C ends the generation.
  uint32_t generate(const std::vector<uint32_t>& prompt, const nb::dict& options, nb::object on_token) {
    nwc_generate_params params;
    nwc_generate_params_init(&params);
    params.max_tokens = nb::cast<uint32_t>(options["max_tokens"]);
    params.temperature = nb::cast<float>(options["temperature"]);
    params.top_k = nb::cast<uint32_t>(options["top_k"]);
    params.top_p = nb::cast<float>(options["top_p"]);
    params.min_p = nb::cast<float>(options["min_p"]);
    params.seed = nb::cast<uint64_t>(options["seed"]);
    params.ignore_eos = nb::cast<bool>(options["ignore_eos"]) ? 1 : 0;
    params.repetition_penalty = nb::cast<float>(options["repetition_penalty"]);
    params.presence_penalty = nb::cast<float>(options["presence_penalty"]);
    params.frequency_penalty = nb::cast<float>(options["frequency_penalty"]);
    const auto stops = nb::cast<std::vector<std::string>>(options["stop"]);
    std::vector<const char*> stop_pointers;
    for (const std::string& stop : stops) stop_pointers.push_back(stop.c_str());
    params.stop_strings = stop_pointers.data();
    params.num_stop_strings = static_cast<uint32_t>(stop_pointers.size());

    struct Listener {
      nb::object callable;
      std::unique_ptr<nb::python_error> raised;
    } listener{std::move(on_token), nullptr};
    const nwc_token_callback callback = [](void* user, uint32_t token, const char* text, size_t length) {
      Listener* self = static_cast<Listener*>(user);
      const nb::gil_scoped_acquire gil;
      try {
        if (PyErr_CheckSignals() != 0) throw nb::python_error();
        return self->callable(token, nb::bytes(text, length)).is(nb::bool_(false)) ? 1 : 0;
      } catch (const nb::python_error& error) {
        self->raised = std::make_unique<nb::python_error>(error);
      }
      return 1;
    };
    nwc_stop_reason reason = 0;
    const Failure done = attempt([&] {
      return nwc_session_generate(session_, prompt.data(), prompt.size(), &params, callback, &listener, &reason);
    });
    if (listener.raised) throw nb::python_error(*listener.raised);
    check(done.status, done.text.c_str());
    return reason;
  }

 private:
  template <typename Body>
  Failure attempt(const Body& body) {
    return call_alone(mutex_, body, [this] { return nwc_session_last_error(session_); });
  }
  template <typename Body>
  void call(const Body& body) {
    const Failure done = attempt(body);
    check(done.status, done.text.c_str());
  }

  std::shared_ptr<ModelHandle> model_;
  nwc_session* session_ = nullptr;
  std::mutex mutex_;
};

}  // namespace

void bind_session(nb::module_& m) {
  nb::class_<Session>(m, "Session")
      .def(nb::init<const Model&, const nb::dict&, nb::object>(), nb::arg("model"), nb::arg("options"),
           nb::arg("progress").none())
      .def_prop_ro("name", &Session::name)
      .def_prop_ro("position", &Session::position)
      .def("truncate", &Session::truncate)
      .def("plan", &Session::plan)
      .def("eval", &Session::eval)
      .def("embed", &Session::embed)
      .def("embed_image", &Session::embed_image)
      .def("generate", &Session::generate);
}

}  // namespace nwc_python
