// Models: opening, metadata, tensors as they are stored, tokenizer, chat.
#include <nanobind/stl/pair.h>
#include <nanobind/stl/vector.h>

#include <vector>

#include "handles.h"

namespace nwc_python {
namespace {

Model open_path(nb::bytes path) {
  Model opened{std::make_shared<ModelHandle>()};
  const std::string name(path.c_str(), path.size());
  ErrorText error;
  nwc_status status;
  {
    const nb::gil_scoped_release free;
    status = nwc_model_open_path(name.c_str(), error.get(), &opened.handle->model);
  }
  check(status, error.text());
  return opened;
}

Model open_buffer(nb::object data) {
  Model opened{std::make_shared<ModelHandle>()};
  Py_buffer& buffer = opened.handle->buffer;
  if (PyObject_GetBuffer(data.ptr(), &buffer, PyBUF_SIMPLE) != 0) throw nb::python_error();
  ErrorText error;
  nwc_status status;
  {
    const nb::gil_scoped_release free;
    status = nwc_model_open_memory(buffer.buf, static_cast<size_t>(buffer.len), error.get(), &opened.handle->model);
  }
  check(status, error.text());
  return opened;
}

nb::dict info(const Model& self) {
  nwc_model_info i;
  nwc_model_info_init(&i);
  self.check(nwc_model_get_info(self.get(), &i));
  nb::dict d;
  d["tensors"] = i.num_tensors;
  d["layers"] = i.num_layers_stored;
  d["has_codec"] = i.has_codec != 0;
  d["has_architecture"] = i.has_architecture != 0;
  d["has_tokenizer"] = i.has_tokenizer != 0;
  d["vocab_size"] = i.vocab_size;
  d["max_token_bytes"] = i.max_token_bytes;
  d["file_bytes"] = i.file_bytes;
  d["weights"] = i.num_weights;
  d["coded_weights"] = i.num_coded_weights;
  d["stored_bytes"] = i.stored_bytes;
  d["bits_per_weight"] = i.bpw_file;
  d["bits_per_coded_weight"] = i.bpw_coded;
  d["codec_levels"] = i.codec_levels;
  d["codec_tables"] = i.codec_tables;
  d["codec_width"] = i.codec_width;
  d["codec_blocks"] = i.codec_blocks;
  return d;
}

nb::dict properties(const Model& self) {
  nb::dict d;
  const char* key = nullptr;
  nwc_value_type type = 0;
  for (uint32_t i = 0; nwc_model_key_at(self.get(), i, &key, &type) == NWC_STATUS_OK; ++i) {
    if (type == NWC_VALUE_U64) {
      uint64_t value = 0;
      self.check(nwc_model_get_u64(self.get(), key, &value));
      d[key] = value;
    } else if (type == NWC_VALUE_F64) {
      double value = 0;
      self.check(nwc_model_get_f64(self.get(), key, &value));
      d[key] = value;
    } else {
      const char* value = nullptr;
      self.check(nwc_model_get_string(self.get(), key, &value));
      d[key] = text_of(value);
    }
  }
  return d;
}

nb::dict metadata(const Model& self, uint32_t section) {
  nb::dict d;
  uint32_t count = 0;
  self.check(nwc_model_metadata_count(self.get(), section, &count));
  for (uint32_t i = 0; i < count; ++i) {
    const char *key = nullptr, *value = nullptr;
    self.check(nwc_model_metadata_at(self.get(), section, i, &key, &value));
    d[text_of(key)] = text_of(value);
  }
  return d;
}

nb::dict tensor(const Model& self, uint32_t index) {
  nwc_tensor_info i;
  nwc_tensor_info_init(&i);
  self.check(nwc_model_tensor(self.get(), index, &i));
  nb::list shape;
  for (uint32_t k = 0; k < i.rank; ++k) shape.append(i.dimensions[k]);
  nb::dict d;
  d["name"] = text_of(i.name);
  d["storage"] = i.storage;
  d["dtype"] = i.dtype;
  d["layer"] = i.layer;
  d["shape"] = nb::tuple(shape);
  d["rows"] = i.rows;
  d["cols"] = i.cols;
  d["row_dimensions"] = i.row_dimensions;
  d["stored_bytes"] = i.stored_bytes;
  d["file_offset"] = i.file_offset;
  d["bits_per_weight"] = i.bpw;
  return d;
}

nb::dict encoder(const Model& self) {
  nwc_encoder_info i;
  nwc_encoder_info_init(&i);
  self.check(nwc_model_get_encoder(self.get(), &i));
  nb::dict d;
  d["kind"] = i.kind == NWC_ENCODER_TEXT ? "text" : i.kind == NWC_ENCODER_IMAGE ? "image" : "none";
  d["hidden_size"] = i.hidden_size;
  d["embedding_size"] = i.embedding_size;
  d["max_tokens"] = i.max_tokens;
  d["channels"] = i.channels;
  d["image_height"] = i.image_height;
  d["image_width"] = i.image_width;
  d["normalized"] = i.normalized != 0;
  return d;
}

void read_raw(const Model& self, uint32_t index, uintptr_t address, size_t size_bytes) {
  nwc_status status;
  std::string text;
  {
    const nb::gil_scoped_release free;
    status = nwc_model_read_raw(self.get(), index, reinterpret_cast<void*>(address), size_bytes);
    if (status != NWC_STATUS_OK) text = nwc_model_last_error(self.get());
  }
  check(status, text.c_str());
}

std::vector<uint32_t> tokenize(const Model& self, nb::bytes text, uint32_t flags) {
  std::vector<uint32_t> tokens(nwc_tokenize_bound(text.size()));
  const char* begin = text.c_str();
  const size_t length = text.size();
  nwc_status status;
  std::string why;
  size_t count = 0;
  {
    const nb::gil_scoped_release free;
    for (;;) {
      status = nwc_tokenize(self.get(), begin, length, flags, tokens.data(), tokens.size(), &count);
      if (status != NWC_STATUS_BUFFER_TOO_SMALL || count <= tokens.size()) break;
      tokens.resize(count);
    }
    if (status != NWC_STATUS_OK) why = nwc_model_last_error(self.get());
  }
  check(status, why.c_str());
  tokens.resize(count);
  return tokens;
}

nb::bytes detokenize(const Model& self, const std::vector<uint32_t>& tokens) {
  size_t length = 0;
  const nwc_status counted = nwc_detokenize(self.get(), tokens.data(), tokens.size(), nullptr, 0, &length);
  self.check(counted);
  std::string text(length, '\0');
  if (length != 0) self.check(nwc_detokenize(self.get(), tokens.data(), tokens.size(), text.data(), length, &length));
  return nb::bytes(text.data(), length);
}

/// messages: (role, text) each. Returns the text and the flags for tokenize.
nb::tuple format_chat(const Model& self, const std::vector<std::pair<uint32_t, std::string>>& messages, size_t num_done,
                      nb::object date) {
  std::vector<nwc_chat_message> list;
  for (const auto& [role, text] : messages) list.push_back({role, 0, text.data(), text.size()});
  const std::string day = date.is_none() ? std::string() : nb::cast<std::string>(date);
  const char* when = date.is_none() ? nullptr : day.c_str();
  size_t length = 0;
  uint32_t flags = 0;
  nwc_status status =
      nwc_chat_format(self.get(), list.data(), list.size(), num_done, when, nullptr, 0, &length, &flags);
  std::string text;
  if (status == NWC_STATUS_BUFFER_TOO_SMALL || (status == NWC_STATUS_OK && length != 0)) {
    text.resize(length);
    status =
        nwc_chat_format(self.get(), list.data(), list.size(), num_done, when, text.data(), length, &length, &flags);
  }
  self.check(status);
  return nb::make_tuple(nb::bytes(text.data(), length), flags);
}

}  // namespace

void bind_model(nb::module_& m) {
  nb::class_<Model>(m, "Model")
      .def("info", &info)
      .def("properties", &properties)
      .def("metadata", &metadata)
      .def("tensor", &tensor)
      .def("encoder", &encoder)
      .def("read_raw", &read_raw)
      .def("tokenize", &tokenize)
      .def("detokenize", &detokenize)
      .def("format_chat", &format_chat, nb::arg("messages"), nb::arg("num_done"), nb::arg("date").none());
  m.def("open_path", &open_path);
  m.def("open_buffer", &open_buffer);
}

}  // namespace nwc_python
