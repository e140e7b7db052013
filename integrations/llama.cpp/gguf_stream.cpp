#include "integrations/llama.cpp/gguf_stream.h"

#include <sys/mman.h>

#include <algorithm>
#include <utility>

#include "runtime/base/cpu_features.h"

namespace nwc {
namespace {

constexpr uint64_t kMostAheadBytes = 256u << 20;
constexpr size_t kPage = 1u << 16;  ///< a multiple of every system's

}  // namespace

PageArena::~PageArena() {
  if (begin_ != nullptr) munmap(begin_, size_);
}

bool PageArena::reserve(size_t size) {
  if (begin_ != nullptr) munmap(begin_, size_);
  begin_ = nullptr;
  taken_ = 0;
  void* const p = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) return false;
#if defined(MADV_HUGEPAGE)
  (void)madvise(p, size, MADV_HUGEPAGE);
#endif
  begin_ = static_cast<uint8_t*>(p);
  size_ = size;
  return true;
}

MutableBytes PageArena::take(size_t size) {
  const size_t whole = (size + kPage - 1) / kPage * kPage;
  if (whole > size_ - taken_) return {};
  taken_ += whole;
  return {begin_ + taken_ - whole, size};
}

void PageArena::give_back(MutableBytes bytes) {
  if (!bytes.empty()) (void)madvise(bytes.data(), bytes.size(), MADV_DONTNEED);
}

Result<std::unique_ptr<GgufStream>> GgufStream::open(const std::string& path, const GgufFileType* type,
                                                     uint32_t threads) {
  std::unique_ptr<GgufStream> stream(new GgufStream);
  NWC_ASSIGN_OR_RETURN(std::unique_ptr<Reader> reader, open_file_reader(path));
  NWC_ASSIGN_OR_RETURN(stream->file_, NwcFile::open(std::move(reader)));
  NWC_ASSIGN_OR_RETURN(stream->source_, load_source_record(stream->file_->container()));
  const SourceRecord* source = stream->source_ ? &*stream->source_ : nullptr;
  Result<GgufPlan> plan = plan_gguf(*stream->file_, source, type, &stream->notes_);
  if (!plan.ok() && source == nullptr)
    return plan.status().with_context("the file has no section SOURCE, which would have the source's metadata");
  NWC_TRY(plan.status());
  stream->plan_ = std::move(plan).value();
  NWC_ASSIGN_OR_RETURN(stream->header_,
                       make_gguf_header(stream->plan_.metadata, stream->plan_.tensors, &stream->sizes_));
  stream->runner_ = make_thread_pool(threads);
  NWC_ASSIGN_OR_RETURN(stream->decoder_, create_cpu_decoder(*stream->file_, *stream->runner_, detect_cpu_level()));
  stream->tensors_.emplace(*stream->file_, *stream->decoder_, *stream->runner_, stream->plan_, stream->no_progress_);
  const uint64_t alignment = stream->plan_.metadata.alignment();
  stream->size_ = stream->header_.size();
  for (const uint64_t size : stream->sizes_) {
    stream->begins_.push_back(stream->size_);
    stream->size_ += (size + alignment - 1) / alignment * alignment;
  }
  return stream;
}

GgufStream::~GgufStream() { end_ahead(); }

void GgufStream::begin() {
  end_ahead();
  ahead_.clear();
  if (sizes_.empty() || !arena_.reserve(std::max<uint64_t>(kMostAheadBytes, sizes_[0] + kPage))) return;
  try {
    ahead_.reserve(sizes_.size());
    beginner_ = std::thread([this] { decode_ahead(); });
  } catch (const std::exception&) {  // no memory, no thread: they are decoded when they are read
  }
}

void GgufStream::decode_ahead() {
  while (ahead_.size() < sizes_.size() && !wanted_) {
    const MutableBytes out = arena_.take(sizes_[ahead_.size()]);
    if (out.empty() && sizes_[ahead_.size()] != 0) return;
    try {
      if (!make(ahead_.size(), out).ok()) return;  // whoever reads it finds the error, too
      ahead_.push_back(out);
    } catch (const std::exception&) {
      return;
    }
  }
}

void GgufStream::end_ahead() {
  wanted_ = true;
  if (beginner_.joinable()) beginner_.join();
  wanted_ = false;
}

MutableBytes GgufStream::ahead(size_t tensor) {
  end_ahead();
  return tensor < ahead_.size() ? ahead_[tensor] : MutableBytes();
}

Status GgufStream::make(size_t tensor, MutableBytes out) {
  return tensors_->make(tensor, out).with_context("tensor \"" + plan_.tensors[tensor].name + "\"");
}

// The last tensor that begins there or before. Empty ones begin where the next one does.
size_t GgufStream::tensor_at(uint64_t offset) const {
  return static_cast<size_t>(std::upper_bound(begins_.begin(), begins_.end(), offset) - begins_.begin()) - 1;
}

uint64_t GgufStream::part_end(uint64_t offset) const {
  if (offset < header_.size()) return header_.size();
  const auto next = std::upper_bound(begins_.begin(), begins_.end(), offset);
  return next == begins_.end() ? size_ : *next;
}

bool GgufStream::ready(uint64_t offset) {
  if (offset < header_.size() || begins_.empty()) return true;
  const size_t tensor = tensor_at(offset);
  const uint64_t at = offset - begins_[tensor];
  return at == 0 || at >= sizes_[tensor] || kept_tensor_ == tensor || !ahead(tensor).empty();
}

Status GgufStream::read(uint64_t offset, MutableBytes out) {
  if (offset > size_ || out.size() > size_ - offset) return invalid_argument("a range beyond the end of the GGUF file");
  while (!out.empty()) {
    uint64_t count = 0;  // of bytes that are done below
    if (offset < header_.size()) {
      count = std::min<uint64_t>(out.size(), header_.size() - offset);
      std::copy_n(header_.begin() + static_cast<ptrdiff_t>(offset), count, out.begin());
    } else {
      const size_t tensor = tensor_at(offset);
      const uint64_t at = offset - begins_[tensor], size = sizes_[tensor];
      if (at >= size) {
        count = std::min<uint64_t>(out.size(), part_end(offset) - offset);
        std::fill_n(out.begin(), count, uint8_t{0});
      } else if (const MutableBytes made = ahead(tensor); !made.empty()) {
        count = std::min<uint64_t>(out.size(), size - at);
        std::copy_n(made.begin() + static_cast<ptrdiff_t>(at), count, out.begin());
        if (at + count == size) PageArena::give_back(std::exchange(ahead_[tensor], {}));
      } else if (at == 0 && out.size() >= size) {
        count = size;
        NWC_TRY(make(tensor, out.first(size)));
      } else {
        if (kept_tensor_ != tensor) {
          kept_tensor_.reset();
          kept_.resize(size);
          NWC_TRY(make(tensor, kept_));
          kept_tensor_ = tensor;
        }
        count = std::min<uint64_t>(out.size(), size - at);
        std::copy_n(kept_.begin() + static_cast<ptrdiff_t>(at), count, out.begin());
      }
    }
    // What is read to its end will not be read again.
    if (kept_tensor_ && offset + count == begins_[*kept_tensor_] + sizes_[*kept_tensor_]) {
      kept_tensor_.reset();
      std::vector<uint8_t>().swap(kept_);
    }
    offset += count;
    out = out.subspan(count);
  }
  return {};
}

}  // namespace nwc
