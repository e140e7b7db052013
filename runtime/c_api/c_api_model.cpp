// nwc_model: opening, description, metadata, tensors, stored layers.
#include "runtime/base/checked.h"
#include "runtime/base/str_cat.h"
#include "runtime/c_api/handles.h"

namespace nwc::c_api {
namespace {

// Our dtype and storage numbers are the container's.
static_assert(NWC_DTYPE_C64 == static_cast<uint32_t>(Dtype::kC64) &&
              NWC_DTYPE_F16 == static_cast<uint32_t>(Dtype::kF16));
static_assert(NWC_STORAGE_CODED == static_cast<uint32_t>(Storage::kCoded));

double bits_per_weight(uint64_t bytes, uint64_t weights) {
  return weights == 0 ? 0 : 8 * static_cast<double>(bytes) / static_cast<double>(weights);
}

void describe_tensors(const std::vector<TensorRecord>& tensors, nwc_model_info* info) {
  uint64_t coded_bytes = 0;
  for (const TensorRecord& t : tensors) {
    info->num_weights += t.num_elements();
    info->stored_bytes += t.size;
    if (t.storage != Storage::kCoded) continue;
    info->num_coded_weights += t.num_elements();
    coded_bytes += t.size;
  }
  info->bpw_file = bits_per_weight(info->file_bytes, info->num_weights);
  info->bpw_coded = bits_per_weight(coded_bytes, info->num_coded_weights);
}

Status open_model(std::unique_ptr<Reader> reader, nwc_model** out_model) {
  NWC_ASSIGN_OR_RETURN(std::unique_ptr<NwcFile> file, NwcFile::open(std::move(reader)));
  auto model = std::make_unique<nwc_model>();
  model->state = std::make_shared<const ModelState>(std::move(file));
  *out_model = model.release();
  return {};
}

const Metadata* metadata_of(const ModelState& state, nwc_metadata section) {
  switch (section) {
    case NWC_METADATA_PROVENANCE: return &state.file().provenance();
    case NWC_METADATA_QUALITY: return &state.file().quality();
    default: return nullptr;
  }
}

Status unknown_section(nwc_metadata section) {
  return invalid_argument(str_cat("metadata section ", section, " does not exist"));
}

/// Calls the caller's close once, and only after opening has succeeded.
struct Closer {
  nwc_read_callbacks callbacks{};
  bool armed = false;
  ~Closer() {
    if (armed && callbacks.close != nullptr) callbacks.close(callbacks.user);
  }
};

}  // namespace

ModelState::ModelState(std::unique_ptr<NwcFile> file) : file_(std::move(file)) {
  const std::vector<TensorRecord>& tensors = file_->tensors();
  layer_of_.reserve(tensors.size());
  for (uint32_t t = 0; t < tensors.size(); ++t) {
    if (layers_.empty() || layers_.back().group != tensors[t].group) layers_.push_back({tensors[t].group, t, 0});
    ++layers_.back().num_tensors;
    layer_of_.push_back(static_cast<uint32_t>(layers_.size() - 1));
  }

  info_.struct_size = sizeof info_;
  info_.num_tensors = static_cast<uint32_t>(tensors.size());
  info_.num_layers_stored = static_cast<uint32_t>(layers_.size());
  info_.file_bytes = file_->reader().size();
  describe_tensors(tensors, &info_);
  properties_ = describe_properties(*file_);
  if (file_->model()) {
    info_.has_architecture = 1;
    info_.vocab_size = file_->model()->vocab_size;
  }
  if (file_->tokenizer()) {
    info_.has_tokenizer = 1;
    for (const TokenizerRecord::Token& token : file_->tokenizer()->tokens)
      info_.max_token_bytes = std::max(info_.max_token_bytes, static_cast<uint32_t>(token.bytes.size()));
  }
  if (file_->codec()) {
    const CodecRecord& codec = *file_->codec();
    info_.has_codec = 1;
    info_.codec_id = codec.codec_id;
    info_.codec_levels = codec.num_levels;
    info_.codec_tables = static_cast<uint32_t>(codec.tables.size());
    info_.codec_width = codec.synthesis.width;
    info_.codec_blocks = static_cast<uint32_t>(codec.synthesis.blocks.size());
    info_.codec_mac_per_weight = codec.synthesis.mac_per_weight();
  }
}

Result<const TensorRecord*> find_tensor(const ModelState& state, uint32_t tensor) {
  const std::vector<TensorRecord>& tensors = state.file().tensors();
  if (tensor < tensors.size()) return &tensors[tensor];
  return Status(StatusCode::kNotFound, str_cat("tensor ", tensor, ": the file has ", tensors.size()));
}

Result<const Layer*> find_layer(const ModelState& state, uint32_t layer) {
  if (layer < state.layers().size()) return &state.layers()[layer];
  return Status(StatusCode::kNotFound, str_cat("layer ", layer, ": the file has ", state.layers().size()));
}

uint64_t decoded_layer_bytes(const ModelState& state, const Layer& layer, uint32_t element_bytes) {
  uint64_t bytes = 0;
  for (uint32_t i = 0; i < layer.num_tensors; ++i) {
    const TensorRecord& record = state.file().tensors()[layer.first_tensor + i];
    bytes += align_up(record.num_elements() * element_bytes, NWC_LAYER_ALIGNMENT);
  }
  return bytes;
}

}  // namespace nwc::c_api

using namespace nwc;
using namespace nwc::c_api;

nwc_status nwc_model_open_path(const char* path, const nwc_error_detail* error, nwc_model** out_model) {
  return make(error, [&]() -> Status {
    if (path == nullptr) return null_argument("path");
    if (out_model == nullptr) return null_argument("out_model");
    NWC_ASSIGN_OR_RETURN(std::unique_ptr<Reader> reader, open_file_reader(path));
    return open_model(std::move(reader), out_model).with_context(path);
  });
}

nwc_status nwc_model_open_memory(const void* data, size_t size_bytes, const nwc_error_detail* error,
                                 nwc_model** out_model) {
  return make(error, [&]() -> Status {
    if (data == nullptr && size_bytes != 0) return null_argument("data");
    if (out_model == nullptr) return null_argument("out_model");
    return open_model(make_memory_reader(Bytes(static_cast<const uint8_t*>(data), size_bytes)), out_model);
  });
}

nwc_status nwc_model_open_fd(int fd, uint64_t offset, uint64_t size_bytes, const nwc_error_detail* error,
                             nwc_model** out_model) {
  return make(error, [&]() -> Status {
    if (out_model == nullptr) return null_argument("out_model");
    NWC_ASSIGN_OR_RETURN(std::unique_ptr<Reader> reader, open_descriptor_reader(fd, offset, size_bytes));
    return open_model(std::move(reader), out_model);
  });
}

nwc_status nwc_model_open_callbacks(const nwc_read_callbacks* callbacks, const nwc_error_detail* error,
                                    nwc_model** out_model) {
  return make(error, [&]() -> Status {
    if (callbacks == nullptr) return null_argument("callbacks");
    if (out_model == nullptr) return null_argument("out_model");
    const auto closer = std::make_shared<Closer>();
    NWC_TRY(read_struct(callbacks, "nwc_read_callbacks", &closer->callbacks));
    if (closer->callbacks.read == nullptr) return null_argument("nwc_read_callbacks.read");
    NWC_TRY(open_model(make_callback_reader(closer->callbacks.size_bytes,
                                            [closer](uint64_t offset, void* out, size_t size) {
                                              const nwc_read_callbacks& c = closer->callbacks;
                                              return c.read(c.user, offset, out, size) == 0;
                                            }),
                       out_model));
    closer->armed = true;
    return {};
  });
}

void nwc_model_destroy(nwc_model* model) { delete model; }

const char* nwc_model_last_error(const nwc_model* model) { return model == nullptr ? "" : model->errors.get(); }

nwc_status nwc_model_get_encoder(const nwc_model* model, nwc_encoder_info* out_info) {
  return call(model, [&](const nwc_model& m) -> Status {
    const NwcFile& file = m.state->file();
    if (!file.model()) return file.model_status();
    const ModelRecord& record = *file.model();
    const EncoderSpec& e = record.ends.encoder;
    nwc_encoder_info info{};
    info.hidden_size = record.hidden_size;
    info.max_tokens = record.max_positions;
    if (record.is_encoder()) {
      info.kind = e.of_images() ? NWC_ENCODER_IMAGE : NWC_ENCODER_TEXT;
      info.embedding_size = record.embedding_size();
      info.channels = e.channels;
      info.image_height = e.image_height;
      info.image_width = e.image_width;
      info.normalized = e.normalized ? 1 : 0;
    }
    return write_struct(info, "nwc_encoder_info", out_info);
  });
}

nwc_status nwc_model_get_info(const nwc_model* model, nwc_model_info* out_info) {
  return call(model, [&](const nwc_model& m) { return write_struct(m.state->info(), "nwc_model_info", out_info); });
}

nwc_status nwc_model_metadata_count(const nwc_model* model, nwc_metadata section, uint32_t* out_count) {
  return call(model, [&](const nwc_model& m) -> Status {
    if (out_count == nullptr) return null_argument("out_count");
    const Metadata* metadata = metadata_of(*m.state, section);
    if (metadata == nullptr) return unknown_section(section);
    *out_count = static_cast<uint32_t>(metadata->size());
    return {};
  });
}

nwc_status nwc_model_metadata_at(const nwc_model* model, nwc_metadata section, uint32_t index, const char** out_key,
                                 const char** out_value) {
  return call(model, [&](const nwc_model& m) -> Status {
    if (out_key == nullptr) return null_argument("out_key");
    if (out_value == nullptr) return null_argument("out_value");
    const Metadata* metadata = metadata_of(*m.state, section);
    if (metadata == nullptr) return unknown_section(section);
    if (index >= metadata->size())
      return Status(StatusCode::kNotFound, str_cat("metadata entry ", index, ": there are ", metadata->size()));
    const auto& [key, value] = *std::next(metadata->begin(), index);
    *out_key = key.c_str();
    *out_value = value.c_str();
    return {};
  });
}

nwc_status nwc_model_metadata_find(const nwc_model* model, nwc_metadata section, const char* key,
                                   const char** out_value) {
  return call(model, [&](const nwc_model& m) -> Status {
    if (key == nullptr) return null_argument("key");
    if (out_value == nullptr) return null_argument("out_value");
    const Metadata* metadata = metadata_of(*m.state, section);
    if (metadata == nullptr) return unknown_section(section);
    const auto it = metadata->find(key);
    if (it == metadata->end()) return Status(StatusCode::kNotFound, str_cat("metadata key '", key, "'"));
    *out_value = it->second.c_str();
    return {};
  });
}

const char* nwc_dtype_string(nwc_dtype dtype) {
  return dtype < kNumDtypes ? dtype_name(static_cast<Dtype>(dtype)) : "?";
}

size_t nwc_dtype_size(nwc_dtype dtype) { return dtype < kNumDtypes ? dtype_size(static_cast<Dtype>(dtype)) : 0; }

uint32_t nwc_dtype_bits(nwc_dtype dtype) { return dtype < kNumDtypes ? dtype_bits(static_cast<Dtype>(dtype)) : 0; }

nwc_status nwc_model_tensor(const nwc_model* model, uint32_t tensor, nwc_tensor_info* out_info) {
  return call(model, [&](const nwc_model& m) -> Status {
    NWC_ASSIGN_OR_RETURN(const TensorRecord* record, find_tensor(*m.state, tensor));
    nwc_tensor_info info{};
    info.storage = static_cast<nwc_storage>(record->storage);
    info.dtype = static_cast<nwc_dtype>(record->dtype);
    info.layer = m.state->layer_of(tensor);
    info.rank = static_cast<uint32_t>(record->shape.size());
    info.has_row_scales = record->row_scales ? 1 : 0;
    info.tile_rows = record->tile_rows;
    info.tile_cols = record->tile_cols;
    info.name = record->name.c_str();
    std::copy_n(record->shape.begin(), std::min<size_t>(record->shape.size(), NWC_MAX_RANK), info.shape);
    info.dimensions = record->shape.data();
    info.row_dimensions = record->split;
    info.rows = record->rows();
    info.cols = record->cols();
    info.file_offset = m.state->file().data_offset() + record->offset;
    info.stored_bytes = record->size;
    info.bpw = bits_per_weight(record->size, record->num_elements());
    return write_struct(info, "nwc_tensor_info", out_info);
  });
}

nwc_status nwc_model_find_tensor(const nwc_model* model, const char* name, uint32_t* out_tensor) {
  return call(model, [&](const nwc_model& m) -> Status {
    if (name == nullptr) return null_argument("name");
    if (out_tensor == nullptr) return null_argument("out_tensor");
    const std::optional<size_t> tensor = m.state->file().find(name);
    if (!tensor) return Status(StatusCode::kNotFound, str_cat("tensor '", name, "'"));
    *out_tensor = static_cast<uint32_t>(*tensor);
    return {};
  });
}

nwc_status nwc_model_read_raw(const nwc_model* model, uint32_t tensor, void* out_data, size_t size_bytes) {
  return call(model, [&](const nwc_model& m) -> Status {
    NWC_ASSIGN_OR_RETURN(const TensorRecord* record, find_tensor(*m.state, tensor));
    if (record->storage == Storage::kCoded)
      return invalid_argument(str_cat("tensor '", record->name, "' is coded: decode it with an nwc_decoder"));
    const uint64_t need = record->raw_bytes();
    if (size_bytes < need)
      return Status(StatusCode::kBufferTooSmall,
                    str_cat("tensor '", record->name, "' needs ", need, " bytes, the buffer has ", size_bytes));
    if (need == 0) return {};
    if (out_data == nullptr) return null_argument("out_data");
    return m.state->file().read_raw(tensor, 0, need, true, [&](uint64_t at, Bytes piece) {
      std::memcpy(static_cast<uint8_t*>(out_data) + at, piece.data(), piece.size());
    });
  });
}

nwc_status nwc_model_layer(const nwc_model* model, uint32_t layer, nwc_layer_info* out_info) {
  return call(model, [&](const nwc_model& m) -> Status {
    NWC_ASSIGN_OR_RETURN(const Layer* l, find_layer(*m.state, layer));
    const std::vector<TensorRecord>& tensors = m.state->file().tensors();
    const TensorRecord& first = tensors[l->first_tensor];
    const TensorRecord& last = tensors[l->first_tensor + l->num_tensors - 1];
    nwc_layer_info info{};
    info.group = l->group;
    info.first_tensor = l->first_tensor;
    info.num_tensors = l->num_tensors;
    info.file_offset = m.state->file().data_offset() + first.offset;
    info.stored_bytes = last.offset + last.size - first.offset;
    for (uint32_t i = 0; i < l->num_tensors; ++i) info.num_weights += tensors[l->first_tensor + i].num_elements();
    info.decoded_bytes_f32 = decoded_layer_bytes(*m.state, *l, 4);
    info.decoded_bytes_f16 = decoded_layer_bytes(*m.state, *l, 2);
    return write_struct(info, "nwc_layer_info", out_info);
  });
}
