#include "trainer/inspect/decompress.h"

#include <algorithm>

#include "trainer/data/gguf_model.h"
#include "trainer/data/gguf_model_write.h"
#include "trainer/data/safetensors.h"

namespace nwc {
namespace {

constexpr uint64_t kBandWeights = 16u << 20;  ///< between two reports of progress

/// The tensor in `dtype`, in bands of whole tile rows.
Status decode_bands(Decoder& decoder, size_t tensor, const TensorRecord& record, Dtype dtype, uint64_t done,
                    uint64_t total, const Progress& progress, std::vector<uint8_t>* bytes) {
  bytes->resize(static_cast<size_t>(record.num_elements() * dtype_size(dtype)));
  const uint64_t m = record.rows(), n = record.cols();
  const uint64_t unit = std::max<uint64_t>(record.tile_rows, 1);
  const uint64_t band = unit * std::max<uint64_t>(1, kBandWeights / std::max<uint64_t>(1, unit * n));
  for (uint64_t row = 0; row < m && n > 0; row += band) {
    const uint64_t end = std::min(m, row + band);
    const size_t row_bytes = static_cast<size_t>(n) * dtype_size(dtype);
    DecodeRequest request;
    request.tensor = tensor;
    request.row_begin = row;
    request.row_end = end;
    request.dtype = dtype;
    request.out = MutableBytes(*bytes).subspan(row * row_bytes, (end - row) * row_bytes);
    NWC_TRY(decoder.decode(request));
    if (!progress.report(done + end * n, total)) return Status(StatusCode::kCancelled, "cancelled while decoding");
  }
  return {};
}

Status check_dtype(Dtype dtype) {
  if (dtype == Dtype::kF32 || dtype == Dtype::kF16 || dtype == Dtype::kBf16) return {};
  return invalid_argument(std::string("cannot decode to ") + dtype_name(dtype) + "; choose F32, F16 or BF16");
}

// Within each head; the rows of other heads stay where they are.
void to_gguf_rotary_order(uint32_t head_dim, size_t row_bytes, MutableBytes rows) {
  const size_t head_bytes = head_dim * row_bytes;
  std::vector<uint8_t> head(head_bytes);
  for (size_t at = 0; at + head_bytes <= rows.size(); at += head_bytes) {
    const MutableBytes out = rows.subspan(at, head_bytes);
    std::copy(out.begin(), out.end(), head.begin());
    for (uint32_t row = 0; row < head_dim; ++row) {
      std::copy_n(head.begin() + static_cast<ptrdiff_t>(row * row_bytes), row_bytes,
                  out.begin() + static_cast<ptrdiff_t>(gguf_rotary_row(row, head_dim) * row_bytes));
    }
  }
}

bool all_finite_f16(Bytes values) {
  for (size_t i = 0; i < values.size(); i += 2) {
    if ((load_le<uint16_t>(values.data() + i) & 0x7c00u) == 0x7c00u) return false;
  }
  return true;
}

// What a GGUF file holds: the record that each tensor comes from, or none for the rotary factors.
struct GgufPlan {
  std::vector<SafetensorsTensor> tensors;
  std::vector<std::optional<size_t>> records;
  uint64_t weights = 0;
};

GgufPlan plan_gguf(const NwcFile& file, Dtype dtype, std::vector<std::string>* left_out) {
  const ModelRecord& model = *file.model();
  GgufPlan plan;
  const auto add = [&plan](std::string name, Dtype type, std::vector<uint64_t> shape, std::optional<size_t> record) {
    SafetensorsTensor& t = plan.tensors.emplace_back();
    t.name = std::move(name);
    t.dtype = type;
    t.shape = std::move(shape);
    plan.records.push_back(record);
  };
  for (size_t i = 0; i < file.tensors().size(); ++i) {
    const TensorRecord& record = file.tensors()[i];
    const std::optional<std::string> name = gguf_name_of(record.name);
    const bool second_head = model.tied_embeddings && record.name == "lm_head.weight";
    if (!name || second_head || !dtype_is_float(record.dtype)) {
      left_out->push_back(record.name);
      continue;
    }
    add(*name, record.shape.size() > 1 ? dtype : Dtype::kF32, record.shape, i);
    plan.weights += record.num_elements();
  }
  if (model.rope_scaling == RopeScaling::kLlama3) {
    add(kRopeFactorsTensor, Dtype::kF32, {model.head_dim / 2}, std::nullopt);
  }
  return plan;
}

// llama.cpp's enum of what most of a file is stored as.
uint32_t file_type(Dtype dtype) { return dtype == Dtype::kF32 ? 0 : dtype == Dtype::kF16 ? 1 : 32; }

}  // namespace

Status decompress_model(const NwcFile& file, Decoder& decoder, std::optional<Dtype> dtype, const std::string& path,
                        const Progress& progress) {
  if (dtype) NWC_TRY(check_dtype(*dtype));
  std::vector<SafetensorsTensor> tensors;
  std::vector<uint64_t> done = {0};
  for (const TensorRecord& record : file.tensors()) {
    SafetensorsTensor& t = tensors.emplace_back();
    t.name = record.name;
    t.dtype = dtype && dtype_is_float(record.dtype) ? *dtype : record.dtype;
    t.shape = record.shape;
    done.push_back(done.back() + record.num_elements());
  }
  return write_safetensors(path, tensors, {{"format", "pt"}}, [&](size_t i, std::vector<uint8_t>* bytes) -> Status {
    const TensorRecord& record = file.tensors()[i];
    if (record.storage == Storage::kCoded || tensors[i].dtype != record.dtype) {
      return decode_bands(decoder, i, record, tensors[i].dtype, done[i], done.back(), progress, bytes);
    }
    std::vector<uint8_t> storage;
    NWC_ASSIGN_OR_RETURN(const Bytes raw, file.load_raw(i, true, &storage));
    bytes->assign(raw.begin(), raw.end());
    if (!progress.report(done[i + 1], done.back())) return Status(StatusCode::kCancelled, "cancelled while decoding");
    return {};
  });
}

Status decompress_to_gguf(const NwcFile& file, Decoder& decoder, Dtype dtype, const std::string& path,
                          const Progress& progress, std::vector<std::string>* left_out) {
  NWC_TRY(check_dtype(dtype));
  if (!file.model() || !file.tokenizer()) {
    return unsupported(std::string("a GGUF file needs a model description and a tokenizer; there is no ") +
                       (file.model() ? "tokenizer" : "model description"));
  }
  const ModelRecord& model = *file.model();
  GgufMetadata metadata;
  NWC_TRY(add_gguf_model(model, &metadata));
  metadata.add_u32("general.file_type", file_type(dtype));
  NWC_TRY(add_gguf_tokenizer(*file.tokenizer(), model.vocab_size, &metadata));
  const GgufPlan plan = plan_gguf(file, dtype, left_out);

  uint64_t done = 0;
  return write_gguf(path, metadata, plan.tensors, [&](size_t i, std::vector<uint8_t>* bytes) -> Status {
    if (!plan.records[i]) {
      const std::vector<float> factors = llama3_scaling_factors(model);
      const auto* data = reinterpret_cast<const uint8_t*>(factors.data());
      bytes->assign(data, data + factors.size() * sizeof(float));
      return {};
    }
    const TensorRecord& record = file.tensors()[*plan.records[i]];
    const Dtype type = plan.tensors[i].dtype;
    NWC_TRY(decode_bands(decoder, *plan.records[i], record, type, done, plan.weights, progress, bytes));
    done += record.num_elements();
    if (type == Dtype::kF16 && !all_finite_f16(*bytes)) {
      return unsupported("a weight does not fit half floats; choose F32 or BF16");
    }
    const bool whole_heads = record.shape.size() == 2 && record.shape[0] % model.head_dim == 0;
    if (is_rotary_projection(record.name) && whole_heads) {
      to_gguf_rotary_order(model.head_dim, bytes->size() / record.shape[0], *bytes);
    }
    return {};
  });
}

}  // namespace nwc
