#include "trainer/calib/hidden_store.h"

#include <cstdio>
#include <filesystem>

#include "runtime/base/os.h"
#include "runtime/base/reader.h"
#include "trainer/data/atomic_file.h"
#include "trainer/data/fs_path.h"

namespace nwc {
namespace {

constexpr const char* kPrefix = "/hidden-";
constexpr const char* kSuffix = ".scratch";

uint64_t num_bytes(Eigen::Index rows, Eigen::Index cols) { return static_cast<uint64_t>(rows * cols) * sizeof(float); }

}  // namespace

HiddenStore::~HiddenStore() {
  for (size_t i = 0; i < entries_.size(); ++i) {
    if (entries_[i].values.size() == 0) os::remove_file(path(i));
  }
}

std::string HiddenStore::path(size_t boundary) const {
  return folder_ + kPrefix + std::to_string(rank_) + "-" + std::to_string(boundary) + kSuffix;
}

void HiddenStore::remove_left(const std::string& folder) {
  namespace fs = std::filesystem;
  std::error_code error;
  for (fs::directory_iterator at(fs_path(folder), error), end; !error && at != end; at.increment(error)) {
    const std::string name = at->path().filename().string();
    std::error_code ignored;
    if (("/" + name).starts_with(kPrefix) && name.ends_with(kSuffix)) fs::remove(at->path(), ignored);
  }
}

Status HiddenStore::push(const RowMatrix<float>& hidden) {
  Entry entry;
  entry.rows = hidden.rows();
  entry.cols = hidden.cols();
  const uint64_t bytes = num_bytes(entry.rows, entry.cols);
  if (bytes <= left_bytes_) {
    left_bytes_ -= bytes;
    entry.values = hidden;
  } else {
    NWC_ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::create(path(entries_.size())));
    NWC_TRY(file.write({reinterpret_cast<const uint8_t*>(hidden.data()), static_cast<size_t>(bytes)}));
    NWC_TRY(file.commit());
  }
  entries_.push_back(std::move(entry));
  return {};
}

Status HiddenStore::pop(RowMatrix<float>* hidden) {
  assert(!entries_.empty());
  Entry& entry = entries_.back();
  const uint64_t bytes = num_bytes(entry.rows, entry.cols);
  if (entry.values.size() != 0) {
    *hidden = std::move(entry.values);
    left_bytes_ += bytes;
  } else {
    const std::string file = path(entries_.size() - 1);
    NWC_ASSIGN_OR_RETURN(const std::unique_ptr<Reader> reader, open_file_reader(file));
    hidden->resize(entry.rows, entry.cols);
    NWC_TRY(
        reader->read(0, {reinterpret_cast<uint8_t*>(hidden->data()), static_cast<size_t>(bytes)}).with_context(file));
    std::remove(file.c_str());
  }
  entries_.pop_back();
  return {};
}

}  // namespace nwc
