#include "trainer/encode/raw_image.h"

#include <algorithm>
#include <list>
#include <mutex>

#include "runtime/base/thread_pool.h"
#include "runtime/format/tensor_record.h"
#include "trainer/codec/container_write.h"
#include "trainer/data/chat_template.h"
#include "trainer/plan/model_plan.h"

namespace nwc {
namespace {

constexpr uint64_t kCacheBytes = 256u << 20;
constexpr uint64_t kSectionAlignment = 8;

using SharedBytes = std::shared_ptr<const std::vector<uint8_t>>;

/// A tensor's place in the image.
struct Extent {
  uint64_t offset = 0, size = 0;
  size_t source = 0;
};

class RawImage : public Reader {
 public:
  RawImage(std::shared_ptr<const ModelSource> source, std::vector<uint8_t> head, std::vector<Extent> extents,
           uint64_t size)
      : source_(std::move(source)), head_(std::move(head)), extents_(std::move(extents)), size_(size) {}

  uint64_t size() const override { return size_; }

  Status read(uint64_t offset, MutableBytes out) const override {
    if (offset > size_ || out.size() > size_ - offset) {
      return truncated("range of " + std::to_string(out.size()) + " bytes at offset " + std::to_string(offset) +
                       " ends behind the image");
    }
    std::fill(out.begin(), out.end(), uint8_t{0});  // gaps
    copy_part(head_, 0, offset, out);
    auto at = std::partition_point(extents_.begin(), extents_.end(),
                                   [&](const Extent& e) { return e.offset + e.size <= offset; });
    for (; at != extents_.end() && at->offset < offset + out.size(); ++at) {
      if (at->size == 0) continue;
      NWC_ASSIGN_OR_RETURN(const SharedBytes bytes, load(at->source, at->size));
      copy_part(*bytes, at->offset, offset, out);
    }
    return {};
  }

  const uint8_t* view(uint64_t offset, uint64_t size) const override {
    return offset <= head_.size() && size <= head_.size() - offset ? head_.data() + offset : nullptr;
  }

 private:
  /// The part of `bytes`, which lie at `bytes_offset` of the image, that falls into `out`, which begins at `offset`.
  static void copy_part(const std::vector<uint8_t>& bytes, uint64_t bytes_offset, uint64_t offset, MutableBytes out) {
    const uint64_t begin = std::max(bytes_offset, offset);
    const uint64_t end = std::min(bytes_offset + bytes.size(), offset + out.size());
    if (begin >= end) return;
    std::copy(bytes.begin() + static_cast<ptrdiff_t>(begin - bytes_offset),
              bytes.begin() + static_cast<ptrdiff_t>(end - bytes_offset),
              out.begin() + static_cast<ptrdiff_t>(begin - offset));
  }

  Result<SharedBytes> load(size_t tensor, uint64_t size) const {
    // Loading under the lock: the others mostly want this tensor too.
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto known =
        std::find_if(cache_.begin(), cache_.end(), [&](const auto& entry) { return entry.first == tensor; });
    if (known != cache_.end()) {
      cache_.splice(cache_.begin(), cache_, known);
      return cache_.front().second;
    }
    auto bytes = std::make_shared<std::vector<uint8_t>>(static_cast<size_t>(size));
    NWC_TRY(source_->read_raw(tensor, *bytes).with_context("tensor " + source_->tensors()[tensor].name));
    cache_.emplace_front(tensor, bytes);
    uint64_t held = 0;
    for (auto it = cache_.begin(); it != cache_.end();) {
      held += it->second->size();
      it = held > kCacheBytes && it != cache_.begin() ? cache_.erase(it) : std::next(it);
    }
    return SharedBytes(bytes);
  }

  std::shared_ptr<const ModelSource> source_;
  std::vector<uint8_t> head_;    ///< everything before DATA
  std::vector<Extent> extents_;  ///< by offset
  uint64_t size_;
  mutable std::mutex mutex_;
  mutable std::list<std::pair<size_t, SharedBytes>> cache_;  ///< most recent first
};

/// Offsets from the start of DATA, which is aligned for groups. Returns the size of DATA.
uint64_t place_tensors(std::vector<TensorRecord>* records) {
  uint64_t at = 0;
  for (size_t i = 0; i < records->size();) {
    uint64_t group_bytes = 0;
    size_t end = i;
    for (; end < records->size() && (*records)[end].group == (*records)[i].group; ++end) {
      group_bytes += align_up((*records)[end].size, kTensorAlignment);
    }
    for (const size_t first = i; i < end; ++i) {
      TensorRecord& r = (*records)[i];
      const bool large = i == first && group_bytes >= kLargeGroupBytes;
      r.offset = r.size == 0 ? at : align_up(at, large ? kGroupAlignment : kTensorAlignment);
      at = r.offset + r.size;
    }
  }
  return at;
}

}  // namespace

Result<std::unique_ptr<Reader>> make_raw_image(std::shared_ptr<const ModelSource> source, uint32_t threads,
                                               bool checksums) {
  const std::vector<PlannedTensor> plan = plan_model(*source, UINT64_MAX);
  if (plan.size() > kMaxTensors) return limit_error("more than 1,048,576 tensors");
  std::vector<TensorRecord> records(plan.size());
  for (size_t i = 0; i < plan.size(); ++i) {
    const SourceTensor& tensor = source->tensors()[plan[i].source];
    if (tensor.name.empty() || tensor.name.size() > kMaxNameBytes) {
      return limit_error("tensor " + tensor.name + ": a name has 1 to 1024 bytes");
    }
    TensorRecord& r = records[i];
    r.name = tensor.name;
    r.dtype = tensor.dtype;
    r.group = plan[i].group;
    r.shape = tensor.shape;
    r.size = r.raw_bytes();
  }
  const std::unique_ptr<Runner> runner = make_thread_pool(threads);
  std::vector<Status> errors(plan.size());
  parallel_for(*runner, checksums ? static_cast<uint32_t>(plan.size()) : 0, [&](uint32_t i, uint32_t) {
    std::vector<uint8_t> bytes(static_cast<size_t>(records[i].size));
    errors[i] = source->read_raw(plan[i].source, bytes).with_context("tensor " + records[i].name);
    records[i].crc = crc32(bytes);
  });
  for (const Status& error : errors) NWC_TRY(error);

  const uint64_t data_size = place_tensors(&records);
  std::vector<Section> sections;
  if (source->model()) sections.push_back({.type = SectionType::kModel, .bytes = serialize(*source->model())});
  if (source->tokenizer()) {
    sections.push_back({.type = SectionType::kTokenizer, .bytes = serialize(*source->tokenizer())});
  }
  NWC_ASSIGN_OR_RETURN(const SourceFiles files, source->source_files());
  std::string warning;  // whoever asks for the chat format is told why there is none
  const TokenizerRecord* tokenizer = source->tokenizer() ? &*source->tokenizer() : nullptr;
  if (const std::optional<ChatRecord> chat = derive_chat_record(files.record, tokenizer, &warning))
    sections.push_back({.type = SectionType::kChat, .bytes = serialize(*chat), .optional = true});
  sections.push_back({.type = SectionType::kTensors, .bytes = serialize(records)});
  Metadata provenance = to_metadata(source->notes());
  provenance["encoder"] = "none";
  sections.push_back({.type = SectionType::kProvenance, .bytes = serialize(provenance)});

  std::vector<SectionEntry> entries;
  uint64_t at = kHeaderBytes + kSectionEntryBytes * (sections.size() + 1);
  for (const Section& section : sections) {
    if (section.bytes.size() > kMaxMetadataBytes) {
      return limit_error(std::string("section ") + section_name(section.type) + " has more than 256 MiB");
    }
    SectionEntry& e = entries.emplace_back();
    e.type = section.type;
    if (section.optional) e.flags = kSectionOptional;
    e.offset = align_up(at, kSectionAlignment);
    e.stored_size = e.size = section.bytes.size();
    e.crc = crc32(section.bytes);
    at = e.offset + e.size;
  }
  SectionEntry data;
  data.type = SectionType::kData;
  data.offset = align_up(at, kGroupAlignment);
  data.stored_size = data.size = data_size;
  entries.push_back(data);
  const uint64_t file_size = data.offset + data_size;
  std::vector<uint8_t> head = serialize_header(FileKind::kModel, kVersionMinor, file_size, entries);
  head.resize(data.offset, 0);
  for (size_t i = 0; i < sections.size(); ++i) {
    std::copy(sections[i].bytes.begin(), sections[i].bytes.end(),
              head.begin() + static_cast<ptrdiff_t>(entries[i].offset));
  }
  std::vector<Extent> extents;
  for (size_t i = 0; i < plan.size(); ++i) {
    extents.push_back({data.offset + records[i].offset, records[i].size, plan[i].source});
  }
  return std::unique_ptr<Reader>(
      std::make_unique<RawImage>(std::move(source), std::move(head), std::move(extents), file_size));
}

}  // namespace nwc
