#include "trainer/text/kept_tokens.h"

#include <algorithm>
#include <cstring>
#include <optional>

#include "runtime/base/reader.h"
#include "runtime/format/container.h"
#include "trainer/data/atomic_file.h"

namespace nwc {
namespace {

constexpr char kMark[] = {'N', 'W', 'C', 'T', 'O', 'K', 'E', 'N'};
constexpr size_t kFront = sizeof kMark + 8, kBack = 4;

std::optional<std::vector<uint32_t>> read(const std::string& path, uint32_t vocab) {
  const Result<std::unique_ptr<Reader>> reader = open_file_reader(path);
  if (!reader.ok() || (*reader)->size() < kFront + kBack || (*reader)->size() > (uint64_t{1} << 32)) return {};
  std::vector<uint8_t> bytes(static_cast<size_t>((*reader)->size()));
  if (!(*reader)->read(0, bytes).ok() || std::memcmp(bytes.data(), kMark, sizeof kMark) != 0) return {};
  const size_t size = bytes.size() - kFront - kBack;
  if (size % 4 != 0 || load_le<uint64_t>(bytes.data() + sizeof kMark) != size / 4) return {};
  if (load_le<uint32_t>(bytes.data() + kFront + size) != crc32({bytes.data() + kFront, size})) return {};
  std::vector<uint32_t> tokens;
  for (size_t at = 0; at < size; at += 4) tokens.push_back(load_le<uint32_t>(bytes.data() + kFront + at));
  if (std::any_of(tokens.begin(), tokens.end(), [&](uint32_t t) { return t >= vocab; })) return {};
  return tokens;
}

Status write(const std::string& path, const std::vector<uint32_t>& tokens) {
  const size_t size = tokens.size() * sizeof(uint32_t);
  std::vector<uint8_t> bytes(kFront + size + kBack);
  std::memcpy(bytes.data(), kMark, sizeof kMark);
  store_le(bytes.data() + sizeof kMark, uint64_t{tokens.size()});
  std::memcpy(bytes.data() + kFront, tokens.data(), size);
  store_le(bytes.data() + kFront + size, crc32({bytes.data() + kFront, size}));
  NWC_ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::create(path));
  NWC_TRY(file.write(bytes));
  return file.commit();
}

}  // namespace

Result<std::vector<uint32_t>> kept_tokens(const std::string& path, uint32_t vocab,
                                          const std::function<Result<std::vector<uint32_t>>()>& make) {
  if (!path.empty()) {
    if (std::optional<std::vector<uint32_t>> tokens = read(path, vocab)) return std::move(*tokens);
  }
  NWC_ASSIGN_OR_RETURN(std::vector<uint32_t> tokens, make());
  if (!path.empty()) NWC_TRY(write(path, tokens));
  return tokens;
}

}  // namespace nwc
