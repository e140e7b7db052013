// What the parts of the extension share: handles with the locks that nwc.h asks for, and errors.
//
// The extension is thin: names, shapes and types are handled in Python (nwc/*.py), which gives addresses of memory that
// it keeps alive. Every call that reads or computes releases the GIL. A decoder and a session take one call at a time:
// their mutex is locked after the GIL is released, so that a thread that waits for it holds up no other.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nwc/nwc.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

namespace nwc_python {

namespace nb = nanobind;

/// Becomes an exception of the package (nwc/errors.py) by its status.
struct Failure {
  nwc_status status;
  std::string text;
};

inline void check(nwc_status status, const char* text) {
  if (status != NWC_STATUS_OK) throw Failure{status, text};
}

/// Makes a call on a handle that takes one at a time, without the GIL. The error's text is read before another call can
/// replace it.
template <typename Body, typename LastError>
Failure call_alone(std::mutex& mutex, const Body& body, const LastError& last_error) {
  const nb::gil_scoped_release free;
  const std::lock_guard lock(mutex);
  Failure out{body(), {}};
  if (out.status != NWC_STATUS_OK) out.text = last_error();
  return out;
}

/// The library's texts may quote names and paths of any bytes.
inline nb::str text_of(const char* bytes, size_t size) {
  PyObject* text = PyUnicode_DecodeUTF8(bytes, static_cast<Py_ssize_t>(size), "backslashreplace");
  if (text == nullptr) throw nb::python_error();
  return nb::steal<nb::str>(text);
}
inline nb::str text_of(const char* text) { return text_of(text, std::char_traits<char>::length(text)); }

class ErrorText {
 public:
  const nwc_error_detail* get() const { return &detail_; }
  const char* text() const { return text_; }

 private:
  char text_[4096] = "";
  nwc_error_detail detail_{text_, sizeof text_};
};

/// A Python callable as the library's progress callback, which worker threads call. What it raises is kept and cancels
/// the call.
class PythonProgress {
 public:
  explicit PythonProgress(nb::object callable) : callable_(std::move(callable)) {}
  nwc_progress_callback callback() const { return callable_.is_none() ? nullptr : &PythonProgress::report; }
  void* user() { return this; }
  /// Raises what the callable raised, and else what the status says. With the GIL.
  void check(nwc_status status, const char* text) const {
    if (raised_) throw nb::python_error(*raised_);
    nwc_python::check(status, text);
  }

 private:
  static int report(void* user, uint64_t done, uint64_t total) {
    PythonProgress* self = static_cast<PythonProgress*>(user);
    const nb::gil_scoped_acquire gil;
    try {
      const nb::object answer = self->callable_(done, total);
      return answer.is(nb::bool_(false)) ? 1 : 0;
    } catch (const nb::python_error& error) {
      self->raised_ = std::make_unique<nb::python_error>(error);
    }
    return 1;
  }

  nb::object callable_;
  std::unique_ptr<nb::python_error> raised_;
};

/// An open model, and the Python buffer that it reads if it was opened from memory. Decoders and sessions share it.
class ModelHandle {
 public:
  ModelHandle() = default;
  ~ModelHandle() {
    nwc_model_destroy(model);
    if (buffer.obj != nullptr) PyBuffer_Release(&buffer);
  }
  ModelHandle(const ModelHandle&) = delete;
  ModelHandle& operator=(const ModelHandle&) = delete;

  nwc_model* model = nullptr;
  Py_buffer buffer{};
};

struct Model {
  std::shared_ptr<ModelHandle> handle;
  nwc_model* get() const { return handle->model; }
  void check(nwc_status status) const {
    if (status != NWC_STATUS_OK) throw Failure{status, nwc_model_last_error(get())};
  }
};

void bind_model(nb::module_& m);
void bind_decoder(nb::module_& m);
void bind_session(nb::module_& m);

}  // namespace nwc_python
