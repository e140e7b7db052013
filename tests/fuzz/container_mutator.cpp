#include "tests/fuzz/container_mutator.h"

#include <algorithm>

#include "runtime/format/tensor_record.h"

namespace nwc::fuzz {
namespace {

constexpr size_t kMaxContent = 1 << 20;  // bytes of a mutated container, inflated

void mutate_bytes(std::vector<uint8_t>* bytes, size_t growth) {
  const size_t size = bytes->size();
  bytes->resize(size + growth);
  bytes->resize(LLVMFuzzerMutate(bytes->data(), size, bytes->size()));
}

void mutate_structure(LooseContainer* c, Random& random) {
  LooseContainer::Part& part = c->parts[random.below(c->parts.size())];
  switch (random.below(7)) {
    case 0: part.flags ^= kSectionDeflated; break;
    case 1: part.flags ^= 1u << random.below(32); break;
    case 2: part.type = static_cast<uint32_t>(random.below(20)); break;
    case 3: std::swap(part, c->parts[random.below(c->parts.size())]); break;
    case 4: c->parts.erase(c->parts.begin() + (&part - c->parts.data())); break;
    case 5: c->minor_version = static_cast<uint16_t>(random.below(5)); break;
    default: c->kind = static_cast<uint32_t>(random.below(5)); break;
  }
}

}  // namespace

std::optional<LooseContainer> LooseContainer::take_apart(Bytes file, size_t limit) {
  const auto reader = make_memory_reader(file);
  const Result<Container> container = Container::open(*reader);
  if (!container.ok()) return std::nullopt;
  LooseContainer loose;
  loose.minor_version = container->minor_version();
  loose.kind = static_cast<uint32_t>(container->kind());
  uint64_t total = 0;
  for (const SectionEntry& e : container->sections()) {
    total += e.size;
    if (total > limit) return std::nullopt;
    Part part{static_cast<uint32_t>(e.type), e.flags, {}};
    const Bytes stored = file.subspan(static_cast<size_t>(e.offset), static_cast<size_t>(e.stored_size));
    if ((e.flags & kSectionDeflated) != 0) {
      Result<std::vector<uint8_t>> inflated = inflate_exact(stored, e.size, "section");
      if (!inflated.ok()) return std::nullopt;
      part.content = std::move(inflated).value();
    } else {
      part.content.assign(stored.begin(), stored.end());
    }
    loose.parts.push_back(std::move(part));
  }
  return loose;
}

std::vector<uint8_t> LooseContainer::put_together() const {
  ByteWriter table, body;
  const uint64_t begin = kHeaderBytes + uint64_t{kSectionEntryBytes} * parts.size();
  for (const Part& part : parts) {
    const bool is_data = part.type == static_cast<uint32_t>(SectionType::kData);
    while (is_data && (begin + body.size()) % 64 != 0) body.write(uint8_t{0});
    const std::vector<uint8_t> deflated =
        (part.flags & kSectionDeflated) != 0 ? deflate_bytes(part.content) : std::vector<uint8_t>();
    const Bytes stored = (part.flags & kSectionDeflated) != 0 ? Bytes(deflated) : Bytes(part.content);
    table.write(part.type);
    table.write(part.flags);
    table.write(begin + body.size());
    table.write(uint64_t{stored.size()});
    table.write(uint64_t{part.content.size()});
    table.write(is_data ? 0u : crc32(stored));
    table.write(uint32_t{0});
    table.write(uint64_t{0});
    body.write_bytes(stored);
  }
  ByteWriter file;
  file.write_bytes(kMagic);
  file.write(kVersionMajor);
  file.write(minor_version);
  file.write(kind);
  file.write(begin + body.size());
  file.write(static_cast<uint32_t>(parts.size()));
  file.write(crc32(table.bytes()));
  for (int i = 0; i < 7; ++i) file.write(uint32_t{0});
  file.write(crc32(file.bytes()));
  file.write_bytes(table.bytes());
  file.write_bytes(body.bytes());
  return file.take();
}

LooseContainer::Part* LooseContainer::find(SectionType type) {
  const auto part =
      std::find_if(parts.begin(), parts.end(), [&](const Part& p) { return p.type == static_cast<uint32_t>(type); });
  return part == parts.end() ? nullptr : &*part;
}

void repair_tensor_checksums(LooseContainer* container) {
  LooseContainer::Part* tensors = container->find(SectionType::kTensors);
  LooseContainer::Part* data = container->find(SectionType::kData);
  if (tensors == nullptr || data == nullptr) return;
  Result<std::vector<TensorRecord>> records = parse_tensor_records(tensors->content, 0, data->content.size());
  if (!records.ok()) return;
  const MutableBytes bytes(data->content);
  for (TensorRecord& r : *records) {
    const MutableBytes blob = bytes.subspan(static_cast<size_t>(r.offset), static_cast<size_t>(r.size));
    if (r.storage != Storage::kCoded) {
      r.crc = crc32(blob);
      continue;
    }
    const uint64_t tiles = tile_grid(r).num_tiles(), head = r.side_size + 8 * tiles;
    if (head > blob.size()) continue;
    uint64_t payload = head;
    for (uint64_t t = 0; t < tiles; ++t) {
      uint8_t* entry = blob.data() + r.side_size + 8 * t;
      const uint32_t size = load_le<uint32_t>(entry);
      if (size > blob.size() - payload) break;
      store_le(entry + 4, crc32(blob.subspan(static_cast<size_t>(payload), size)));
      payload += size;
    }
    r.crc = crc32(blob.first(static_cast<size_t>(head)));
  }
  tensors->content = serialize(*records);
}

size_t mutate_container(uint8_t* data, size_t size, size_t max_size, unsigned seed) {
  Random random(seed);
  std::optional<LooseContainer> container = LooseContainer::take_apart({data, size}, kMaxContent);
  if (!container || random.one_in(8)) return LLVMFuzzerMutate(data, size, max_size);
  if (random.one_in(10)) {
    mutate_structure(&*container, random);
  } else {
    mutate_bytes(&container->parts[random.below(container->parts.size())].content, 64);
  }
  if (!random.one_in(8)) repair_tensor_checksums(&*container);
  const std::vector<uint8_t> file = container->put_together();
  if (file.size() > max_size) return LLVMFuzzerMutate(data, size, max_size);
  std::copy(file.begin(), file.end(), data);
  return file.size();
}

}  // namespace nwc::fuzz
