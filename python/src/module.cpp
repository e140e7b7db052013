// The extension module nwc._nwc.
#include "handles.h"

namespace nwc_python {
namespace {

/// The package's function (status, text) -> exception; owned by the module.
PyObject* make_exception = nullptr;

void translate(const std::exception_ptr& thrown, void*) {
  try {
    std::rethrow_exception(thrown);
  } catch (const Failure& failure) {
    if (make_exception == nullptr) {
      PyErr_SetString(PyExc_RuntimeError, failure.text.c_str());
      return;
    }
    const nb::object error =
        nb::handle(make_exception)(static_cast<int>(failure.status), text_of(failure.text.c_str()));
    PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(error.ptr())), error.ptr());
  }
}

}  // namespace
}  // namespace nwc_python

NB_MODULE(_nwc, m) {
  using namespace nwc_python;
  nb::set_leak_warnings(false);  // handles may outlive the interpreter
  nb::register_exception_translator(translate);
  m.attr("version") = nwc_version_string();
  m.attr("format_version") = nwc_format_version();
  m.def("status_name", [](int status) { return nwc_status_string(static_cast<nwc_status>(status)); });
  m.def("dtype_name", [](uint32_t dtype) { return nwc_dtype_string(dtype); });
  m.def("dtype_bits", [](uint32_t dtype) { return nwc_dtype_bits(dtype); });
  m.def("set_exception_maker", [](nb::object maker) {
    Py_XDECREF(make_exception);
    make_exception = maker.release().ptr();
  });
  m.def("vulkan_devices", [] {
    nb::list devices;
    uint32_t count = 0;
    check(nwc_vulkan_device_count(&count), "Vulkan devices cannot be listed");
    for (uint32_t i = 0; i < count; ++i) {
      nwc_device_info info;
      nwc_device_info_init(&info);
      check(nwc_vulkan_device(i, &info), "Vulkan device cannot be described");
      nb::dict device;
      device["name"] = text_of(info.name);
      device["detail"] = text_of(info.detail);
      device["usable"] = info.usable != 0;
      device["memory_bytes"] = info.memory_bytes;
      devices.append(device);
    }
    return devices;
  });
  bind_model(m);
  bind_decoder(m);
  bind_session(m);
}
