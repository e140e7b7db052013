#include "runtime/vulkan/pipeline_file.h"

#include <cerrno>
#include <ctime>

#include "runtime/base/os.h"
#include "runtime/base/reader.h"
#include "runtime/base/str_cat.h"
#include "runtime/format/container.h"
#include "runtime/vulkan/shader_registry.h"

namespace nwc {
namespace {

constexpr uint8_t kPipelineMagic[] = {'N', 'W', 'C', 'P', 'I', 'P', 'E', '1'};
constexpr size_t kKeyBytes = 68;
constexpr size_t kSizeAt = sizeof kPipelineMagic + kKeyBytes, kCrcAt = kSizeAt + 8;
constexpr size_t kFileHeaderBytes = kCrcAt + 4;

Status os_error(const std::string& path, const char* what) {
  return io_error(str_cat(path, ": ", what, ": ", std::strerror(errno)));
}

uint32_t shaders_crc() {
  uint32_t crc = 0;
  const auto add = [&](ShaderId id) {
    const std::span<const uint32_t> code = shader_code(id);
    crc = crc32({reinterpret_cast<const uint8_t*>(code.data()), code.size_bytes()}, crc);
  };
#define NWC_ADD_SHADER(id, file) add(ShaderId::id);
  NWC_SHADERS(NWC_ADD_SHADER)
#undef NWC_ADD_SHADER
  return crc;
}

}  // namespace

PipelineFile::PipelineFile(const std::string& directory, const DeviceInfo& info) : directory_(directory) {
  const DriverIdentity& id = info.identity;
  path_ = str_cat(directory, "/pipelines-");
  for (const uint8_t byte : id.device_uuid) {
    for (const int digit : {byte >> 4, byte & 15}) path_ += "0123456789abcdef"[digit];
  }
  path_ += ".bin";

  ByteWriter key;
  key.write_bytes(id.cache_uuid);
  key.write_bytes(id.device_uuid);
  key.write_bytes(id.driver_uuid);
  const uint32_t name_crc = crc32({reinterpret_cast<const uint8_t*>(info.name.data()), info.name.size()});
  for (const uint32_t word : {id.vendor, id.device, id.driver_version, name_crc, shaders_crc()}) key.write(word);
  key_ = key.take();
  assert(key_.size() == kKeyBytes);
  // VkPipelineCacheHeaderVersionOne: its size, its version, vendor, device, UUID of the cache.
  ByteWriter header;
  for (const uint32_t word : {32u, 1u, id.vendor, id.device}) header.write(word);
  header.write_bytes(id.cache_uuid);
  driver_header_ = header.take();
}

Result<std::vector<uint8_t>> PipelineFile::load() const {
  os::FileStatus info;
  if (!os::status_of(path_, &info) && errno == ENOENT)
    return Status(StatusCode::kNotFound, str_cat(path_, ": there is none yet"));
  NWC_ASSIGN_OR_RETURN(const std::unique_ptr<Reader> file, open_file_reader(path_));
  const uint64_t size = file->size();
  if (size < kFileHeaderBytes) return corrupt(str_cat(path_, ": ", size, " bytes are less than a header"));
  if (size - kFileHeaderBytes > kMaxDataBytes) return corrupt(str_cat(path_, ": ", size, " bytes are too many"));

  // A copy: what is checked must not change afterwards.
  std::vector<uint8_t> bytes(static_cast<size_t>(size));
  NWC_TRY(file->read(0, bytes));
  if (!std::equal(std::begin(kPipelineMagic), std::end(kPipelineMagic), bytes.begin())) {
    return corrupt(str_cat(path_, ": not a file of compiled pipelines"));
  }
  if (!std::equal(key_.begin(), key_.end(), bytes.begin() + sizeof kPipelineMagic)) {
    return unsupported(str_cat(path_, ": made by another driver, for another device or of other shaders"));
  }
  const Bytes data = Bytes(bytes).subspan(kFileHeaderBytes);
  if (load_le<uint64_t>(bytes.data() + kSizeAt) != data.size()) {
    return corrupt(str_cat(path_, ": has ", data.size(), " bytes of data, its header says otherwise"));
  }
  if (load_le<uint32_t>(bytes.data() + kCrcAt) != crc32(data)) return corrupt(str_cat(path_, ": CRC-32 is wrong"));
  if (data.size() < driver_header_.size() || !std::equal(driver_header_.begin(), driver_header_.end(), data.begin())) {
    return corrupt(str_cat(path_, ": the data does not begin like this driver's"));
  }
  bytes.erase(bytes.begin(), bytes.begin() + kFileHeaderBytes);
  return bytes;
}

Status PipelineFile::store(Bytes data) const {
  if (data.size() > kMaxDataBytes) return limit_error(str_cat(path_, ": ", data.size(), " bytes are too many"));
  ByteWriter header;
  header.write_bytes(kPipelineMagic);
  header.write_bytes(key_);
  header.write<uint64_t>(data.size());
  header.write(crc32(data));

  if (!os::make_folder(directory_, true) && errno != EEXIST) return os_error(directory_, "mkdir");
  // Where it is there, another thread is writing the same in this second.
  const std::string temporary = str_cat(path_, ".", os::process_id(), "-", std::time(nullptr));
  const int fd = os::create_new(temporary, true);
  if (fd < 0) return os_error(temporary, "create");
  // Not synchronized: after a crash the CRC-32 tells.
  Status status;
  const Bytes first = header.bytes();
  if (!os::write_at(fd, 0, first.data(), first.size()) || !os::write_at(fd, first.size(), data.data(), data.size()))
    status = os_error(temporary, "write");
  os::close_file(fd);
  if (status.ok() && !os::rename_over(temporary, path_)) status = os_error(path_, "rename");
  if (!status.ok()) os::remove_file(temporary);
  return status;
}

}  // namespace nwc
