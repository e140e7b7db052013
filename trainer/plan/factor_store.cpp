#include "trainer/plan/factor_store.h"

#include <algorithm>
#include <cassert>

namespace nwc {
namespace {

/// Rows of U from their diagonal elements on, packed together in writes and reads of at most so many elements, or of
/// one row.
constexpr size_t kPieceElements = size_t{4} << 20;

/// Calls piece(elements, rows [begin, end)) for runs of rows that are written or read at once.
template <typename Piece>
Status for_each_piece(size_t n, const Piece& piece) {
  for (size_t begin = 0; begin < n;) {
    size_t end = begin, elements = 0;
    while (end < n && (end == begin || elements + n - end <= kPieceElements)) elements += n - end++;
    NWC_TRY(piece(elements, begin, end));
    begin = end;
  }
  return {};
}

}  // namespace

uint64_t FactorStore::file_bytes(std::span<const uint64_t> sizes, uint64_t memory_bytes_left) {
  uint64_t out = 0;
  for (const uint64_t n : sizes) {
    if (memory_bytes(n) <= memory_bytes_left)
      memory_bytes_left -= memory_bytes(n);
    else
      out += file_bytes(n);
  }
  return out;
}

void FactorStore::renumber(const std::vector<size_t>& from) {
  for (size_t i = 0; i < from.size(); ++i) {
    assert(from[i] >= i);
    if (from[i] != i) entries_[i] = std::move(entries_[from[i]]);
  }
  entries_.resize(from.size());
}

void FactorStore::put(size_t number, std::shared_ptr<const FeedbackFactors> factors) {
  Entry& entry = entries_[number];
  if (entry.held != nullptr || entry.in_file != nullptr) return;
  const uint64_t bytes = memory_bytes(factors->diagonal.size());
  if (bytes <= memory_left_) {
    memory_left_ -= bytes;
    entry.held = std::move(factors);
    return;
  }
  if (folder_.empty() || !trouble_.empty()) return;
  const Status written = write(*factors, &entry);
  if (!written.ok()) trouble_ = written.message();
}

Status FactorStore::write(const FeedbackFactors& factors, Entry* entry) {
  if (!file_) {
    NWC_ASSIGN_OR_RETURN(file_, ScratchFile::create(folder_));
  }
  const size_t n = factors.diagonal.size();
  entry->offset = file_->size();
  std::vector<float> packed;
  NWC_TRY(for_each_piece(n, [&](size_t elements, size_t begin, size_t end) {
    packed.clear();
    packed.reserve(elements);
    for (size_t j = begin; j < end; ++j) {
      const auto row = factors.upper.begin() + static_cast<ptrdiff_t>(j * n);
      packed.insert(packed.end(), row + static_cast<ptrdiff_t>(j), row + static_cast<ptrdiff_t>(n));
    }
    return file_->append({reinterpret_cast<const uint8_t*>(packed.data()), packed.size() * sizeof(float)});
  }));
  auto rest = std::make_shared<FeedbackFactors>();
  rest->diagonal = factors.diagonal;
  rest->damping = factors.damping;
  rest->added = factors.added;
  entry->in_file = std::move(rest);
  return {};
}

Result<std::shared_ptr<const FeedbackFactors>> FactorStore::get(size_t number) const {
  const Entry& entry = entries_[number];
  if (entry.in_file == nullptr) return entry.held;
  auto out = std::make_shared<FeedbackFactors>(*entry.in_file);
  const size_t n = out->diagonal.size();
  out->upper.assign(n * n, 0.0f);
  std::vector<float> packed;
  uint64_t offset = entry.offset;
  const Status status = for_each_piece(n, [&](size_t elements, size_t begin, size_t end) -> Status {
    packed.resize(elements);
    NWC_TRY(file_->read(offset, {reinterpret_cast<uint8_t*>(packed.data()), elements * sizeof(float)}));
    offset += elements * sizeof(float);
    auto from = packed.begin();
    for (size_t j = begin; j < end; ++j) {
      const auto count = static_cast<ptrdiff_t>(n - j);
      std::copy(from, from + count, out->upper.begin() + static_cast<ptrdiff_t>(j * n + j));
      from += count;
    }
    return {};
  });
  NWC_TRY(status);
  return std::shared_ptr<const FeedbackFactors>(std::move(out));
}

}  // namespace nwc
