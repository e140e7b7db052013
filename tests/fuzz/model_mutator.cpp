#include "tests/fuzz/model_mutator.h"

#include <algorithm>
#include <cmath>

#include "runtime/base/half.h"
#include "runtime/codec/tensor_decode.h"

namespace nwc::fuzz {
namespace {

constexpr uint64_t kMaxElements = 1 << 15;
constexpr size_t kMaxFile = 1 << 18;

// Mostly numbers of a sound model: those near the ends of a type make a session overflow, and then nothing is compared.
float interesting_float(Random& random) {
  constexpr float kExtreme[] = {100, 1e4f, 7e4f, -1e6f, 1e-8f, 6e-8f, 1e-30f, 1e20f, 3e38f};
  constexpr float kPlain[] = {0, 1, -1, 0.5f, 0.1f, 1e-3f, -3, 7.5f};
  if (random.one_in(12)) return kExtreme[random.below(std::size(kExtreme))];
  if (random.one_in(3)) return kPlain[random.below(std::size(kPlain))];
  return static_cast<float>(static_cast<double>(random.below(2001)) / 1000 - 1);
}

// Values k of reconstruction indices: what ColumnTrellis::push undoes. Indices that wrapped around come back as others.
std::vector<int16_t> values_of(const CodecRecord& codec, const TileGrid& grid, const std::vector<int16_t>& q) {
  std::vector<int16_t> k(q.size());
  for (uint64_t column = 0; column < grid.n; ++column) {
    reference::ColumnTrellis trellis(codec.trellis_bits);
    for (uint64_t row = 0; row < (grid.m + 15) / 16 * 16; ++row) {
      if (row % grid.tile_rows == 0) trellis = reference::ColumnTrellis(codec.trellis_bits);
      const size_t at = static_cast<size_t>((row / 16 * grid.n + column) * 16 + row % 16);
      const int sign = (q[at] > 0) - (q[at] < 0);
      k[at] =
          codec.trellis_bits == 0 ? q[at] : static_cast<int16_t>((q[at] + static_cast<int>(trellis.bank()) * sign) / 2);
      trellis.push(k[at]);
    }
  }
  return k;
}

// Random contents of a coded tensor, whose shape may have changed.
void fill_anew(const CodecRecord& codec, Random& random, EditableTensor* tensor) {
  const TensorRecord before = tensor->coded.record;
  reference::TensorOptions o{.name = before.name, .shape = before.shape};
  o.tile_rows = before.tile_rows;
  o.tile_cols = before.tile_cols;
  o.row_scales = before.row_scales;
  o.row_classes = codec.context_kind == ContextKind::kRowClass && before.row_classes;
  o.wrapping = random.one_in(2);
  tensor->coded = make_tensor(codec, o, static_cast<uint32_t>(random.next()));
  TensorRecord& r = tensor->coded.record;
  r.dtype = before.dtype;
  r.group = before.group;
  r.scale_base = before.scale_base;
  tensor->changed = true;
}

void mutate_codec(CodecRecord* codec, Random& random) {
  const auto any = [&](std::vector<float>& numbers) {
    if (numbers.empty()) return;
    float& x = numbers[random.below(numbers.size())];
    x = interesting_float(random);
    if (codec->f16_weights) x = f16_to_f32(f32_to_f16(std::clamp(x, -6e4f, 6e4f)));
  };
  Network& g = codec->synthesis;
  const size_t level = random.below(codec->num_levels);
  switch (random.below(9)) {
    case 0: codec->step[level] = std::max(1e-30f, std::abs(interesting_float(random))); break;
    case 1: codec->shrink[level] = static_cast<float>(random.below(100)) / 100; break;
    case 2: any(g.skip_weight); break;
    case 3: {
      std::vector<float>* parts[] = {&g.input_weight, &g.input_bias,      &g.output_weight,
                                     &g.output_bias,  &g.level_embedding, &g.skip_weight};
      any(*parts[random.below(std::size(parts))]);
      break;
    }
    case 4: {
      if (g.blocks.empty()) break;
      NetworkBlock& b = g.blocks[random.below(g.blocks.size())];
      std::vector<float>* parts[] = {&b.weight, &b.bias, &b.norm_gain, &b.norm_bias};
      any(*parts[random.below(std::size(parts))]);
      break;
    }
    case 5: {
      FrequencyTable& table = codec->tables[random.below(codec->tables.size())];
      const uint32_t n = 1 + static_cast<uint32_t>(random.below(random.one_in(3) ? 128 : 20));
      table.freq = reference::gaussian_frequencies(n, 0.3 + static_cast<double>(random.below(200)) / 10);
      table.raw_bits = static_cast<uint8_t>(random.one_in(2) ? random.below(8) : 0);
      table.min =
          static_cast<int16_t>(random.one_in(4) ? static_cast<int>(random.below(400)) - 200 : -static_cast<int>(n / 2));
      break;
    }
    case 6:
      codec->context_map[random.below(codec->context_map.size())] =
          static_cast<uint16_t>(random.below(codec->tables.size()));
      break;
    case 7:  // the identity, which kernels treat apart
      if (g.width != 0) break;
      for (size_t i = 0; i < g.skip_weight.size(); ++i) g.skip_weight[i] = i % (kChunk + 1) == 0 ? 1.0f : 0.0f;
      break;
    default: {
      reference::CodecOptions o{.levels = 1 + static_cast<uint32_t>(random.below(random.one_in(4) ? 64 : 5))};
      o.tables = 1 + static_cast<uint32_t>(random.below(random.one_in(4) ? 80 : 6));
      o.width = 16 * static_cast<uint32_t>(random.below(4));
      if (o.width != 0) {
        o.blocks = 1 + static_cast<uint32_t>(random.below(3));
        o.activation = random.one_in(2) ? Activation::kRelu : Activation::kSilu;
        o.layer_norm = random.one_in(2);
      }
      o.f16 = random.one_in(2);
      o.max_raw_bits = static_cast<uint32_t>(random.one_in(2) ? random.below(8) : 0);
      o.alphabet = 3 + static_cast<uint32_t>(random.below(120));
      o.varied = random.one_in(2);
      constexpr uint32_t kTrellis[] = {0, 0, 0, 2, 3, 4, 5, 6, 8};
      o.trellis_bits = kTrellis[random.below(std::size(kTrellis))];
      o.row_classes = random.one_in(3);
      *codec = reference::make_codec(o, static_cast<uint32_t>(random.next()));
    }
  }
}

void mutate_coded(const CodecRecord& codec, Random& random, EditableTensor* tensor) {
  reference::TestTensor& t = tensor->coded;
  TensorRecord& r = t.record;
  const auto any = [&](std::vector<uint8_t>& codes, uint64_t bound) {
    if (!codes.empty()) codes[random.below(codes.size())] = static_cast<uint8_t>(random.below(bound));
  };
  tensor->changed = true;
  switch (random.below(9)) {
    case 0:
    case 1: {
      const uint64_t count = 1 + random.below(8), first = random.below(t.k.size());
      for (uint64_t i = first; i < std::min<uint64_t>(t.k.size(), first + count); ++i) {
        const int spread = random.one_in(32) ? 65536 : random.one_in(6) ? 400 : 9;
        t.k[i] = static_cast<int16_t>(static_cast<int>(random.below(static_cast<uint64_t>(spread))) - spread / 2);
      }
      break;
    }
    case 2: any(t.level, codec.num_levels); break;
    case 3: any(t.scale_code, random.one_in(32) ? 256 : 64); break;
    case 4: any(t.row_scale_code, random.one_in(32) ? 256 : 32); break;
    case 5: any(t.row_class, 16); break;
    case 6: {
      float& base = r.row_scales && random.one_in(2) ? r.row_scale_base : r.scale_base;
      base = std::max(1e-38f, std::abs(interesting_float(random)));
      break;
    }
    case 7:
      r.tile_rows = 16 * static_cast<uint32_t>(1 + random.below(4));
      r.tile_cols = 32 * static_cast<uint32_t>(1 + random.below(3));
      break;
    default:
      r.row_scales = random.one_in(2);
      r.row_classes = random.one_in(2);
      if (random.one_in(16)) {
        r.shape = {1 + random.below(70), 1 + random.below(100)};
        r.split = 1;
      } else if (random.one_in(16)) {
        r.shape = {1 + random.below(5), 1 + random.below(20), 1 + random.below(100)};
        r.split = 1 + static_cast<uint32_t>(random.below(2));
      }
      fill_anew(codec, random, tensor);
  }
}

void mutate_raw(Random& random, EditableTensor* tensor) {
  reference::TestTensor& t = tensor->coded;
  if (t.blob.empty()) return;
  const size_t element = std::max(1u, dtype_size(t.record.dtype));
  if (t.record.storage == Storage::kRaw && t.blob.size() >= 4 && random.one_in(2)) {
    const float v = interesting_float(random);
    uint8_t* to = t.blob.data() + random.below(t.blob.size() / element) * element;
    if (t.record.dtype == Dtype::kF32) store_le(to, v);
    if (t.record.dtype == Dtype::kF16) store_le(to, f32_to_f16(v));
    if (t.record.dtype == Dtype::kBf16) store_le(to, f32_to_bf16(v));
  } else {
    LLVMFuzzerMutate(t.blob.data(), t.blob.size(), t.blob.size());
  }
  t.record.crc = crc32(t.blob);
}

void mutate_description(LooseContainer* container, Random& random) {
  LooseContainer::Part* part = container->find(SectionType::kModel);
  if (part == nullptr) return;
  Result<ModelRecord> parsed = parse_model_record(part->content, 0);
  if (!parsed.ok()) return;
  ModelRecord& r = *parsed;
  switch (random.below(6)) {
    case 0: r.block().norm_eps = std::abs(interesting_float(random)); break;
    case 1: r.block().rope.theta = std::abs(interesting_float(random)) + 1; break;
    case 2:
      r.block().rope.scaling = static_cast<RopeScaling>(random.below(3));
      r.block().rope.factor = 1 + static_cast<float>(random.below(8));
      if (r.block().rope.scaling == RopeScaling::kLlama3) r.block().rope.original_max_positions = 8;
      break;
    case 3: r.num_layers = 1 + static_cast<uint32_t>(random.below(r.num_layers)); break;
    case 4: r.tied_embeddings = !r.tied_embeddings || !random.one_in(8); break;
    default: r.max_positions = 1 + static_cast<uint32_t>(random.below(40)); break;
  }
  if (validate(r).ok()) part->content = serialize(r);
}

}  // namespace

std::optional<EditableModel> EditableModel::take_apart(Bytes bytes) {
  std::optional<LooseContainer> container = LooseContainer::take_apart(bytes, kMaxFile);
  if (!container) return std::nullopt;
  const auto file = NwcFile::open(make_memory_reader(bytes));
  if (!file.ok() || !(*file)->codec()) return std::nullopt;
  EditableModel model{std::move(*container), *(*file)->codec(), {}};
  const DecodeTables tables = build_decode_tables(model.codec);
  const auto runner = make_thread_pool(1);
  uint64_t elements = 0;
  for (size_t i = 0; i < (*file)->tensors().size(); ++i) {
    EditableTensor& tensor = model.tensors.emplace_back();
    reference::TestTensor& t = tensor.coded;
    t.record = (*file)->tensors()[i];
    const Bytes blob = bytes.subspan(static_cast<size_t>((*file)->data_offset() + t.record.offset),
                                     static_cast<size_t>(t.record.size));
    t.blob.assign(blob.begin(), blob.end());
    if (t.record.storage != Storage::kCoded) continue;
    elements += t.record.num_elements();
    if (elements > kMaxElements) return std::nullopt;
    const TileGrid grid = tile_grid(t.record);
    std::vector<int16_t> q(static_cast<size_t>((grid.m + 15) / 16 * grid.n * 16));
    const auto coded = (*file)->load_coded(i, false);
    if (!coded.ok() || !decode_tensor_values(**file, tables, i, q, *runner, {}).ok()) return std::nullopt;
    t.k = values_of(model.codec, grid, q);
    t.level = coded->level;
    t.row_class = coded->row_class;
    // The codes of the scales stand behind the levels in the inflated side information.
    const uint64_t side_size = 2 * grid.n + (t.record.row_scales ? grid.m : 0) + (t.record.row_classes ? grid.m : 0);
    const auto side = inflate_exact(blob.first(t.record.side_size), side_size, "side information");
    if (!side.ok()) return std::nullopt;
    const auto codes = side->begin() + static_cast<ptrdiff_t>(grid.n), rows = codes + static_cast<ptrdiff_t>(grid.n);
    t.scale_code.assign(codes, rows);
    if (t.record.row_scales) t.row_scale_code.assign(rows, rows + static_cast<ptrdiff_t>(grid.m));
  }
  if (elements == 0) return std::nullopt;
  return model;
}

std::vector<uint8_t> EditableModel::put_together() {
  codec.codec_id = compute_codec_id(codec);
  std::optional<reference::TileEncoder> encoder;
  ByteWriter data;
  std::vector<TensorRecord> records;
  for (EditableTensor& tensor : tensors) {
    TensorRecord& r = tensor.coded.record;
    if (tensor.changed && r.storage == Storage::kCoded) {
      if (!encoder) encoder.emplace(codec);
      encode_blob(*encoder, &tensor.coded);
    }
    while (data.size() % 64 != 0) data.write(uint8_t{0});
    r.offset = data.size();
    r.size = tensor.coded.blob.size();
    data.write_bytes(tensor.coded.blob);
    records.push_back(r);
  }
  const auto set = [&](SectionType type, std::vector<uint8_t> content) {
    if (LooseContainer::Part* part = container.find(type)) part->content = std::move(content);
  };
  set(SectionType::kCodec, serialize(codec));
  set(SectionType::kTensors, serialize(records));
  set(SectionType::kData, data.take());
  return container.put_together();
}

size_t mutate_model(uint8_t* data, size_t size, size_t max_size, unsigned seed) {
  Random random(seed);
  if (random.one_in(16)) return mutate_container(data, size, max_size, seed + 1);
  std::optional<EditableModel> model = EditableModel::take_apart({data, size});
  if (!model) return mutate_container(data, size, max_size, seed + 1);
  const uint64_t changes = 1 + random.below(4);
  for (uint64_t i = 0; i < changes; ++i) {
    if (random.one_in(4)) {
      CodecRecord codec = model->codec;
      mutate_codec(&codec, random);
      if (!validate(codec).ok()) continue;
      // Another number of levels or kind of context takes other side information.
      const bool other_layout = codec.num_levels != model->codec.num_levels ||
                                codec.context_kind != model->codec.context_kind ||
                                codec.trellis_bits != model->codec.trellis_bits;
      model->codec = std::move(codec);
      for (EditableTensor& tensor : model->tensors) {
        if (tensor.coded.record.storage != Storage::kCoded) continue;
        if (other_layout) fill_anew(model->codec, random, &tensor);
        tensor.changed = true;
      }
    } else if (random.one_in(8)) {
      mutate_description(&model->container, random);
    } else {
      EditableTensor& tensor = model->tensors[random.below(model->tensors.size())];
      tensor.coded.record.storage == Storage::kCoded ? mutate_coded(model->codec, random, &tensor)
                                                     : mutate_raw(random, &tensor);
    }
  }
  std::vector<uint8_t> file = model->put_together();
  if (random.one_in(12)) {
    // What an encoder never writes: damaged side information, directories and payloads under right checksums.
    if (std::optional<LooseContainer> loose = LooseContainer::take_apart(file, kMaxFile)) {
      LooseContainer::Part* part = loose->find(SectionType::kData);
      if (part != nullptr && !part->content.empty()) {
        LLVMFuzzerMutate(part->content.data(), part->content.size(), part->content.size());
        repair_tensor_checksums(&*loose);
        file = loose->put_together();
      }
    }
  }
  if (file.size() > max_size) return LLVMFuzzerMutate(data, size, max_size);
  std::copy(file.begin(), file.end(), data);
  return file.size();
}

}  // namespace nwc::fuzz
