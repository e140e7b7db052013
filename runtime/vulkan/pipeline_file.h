// Compiled pipelines kept from run to run: one file per device in a directory that the user names.
//
// The file is written by this library and read by the driver, which trusts it. So the driver gets its data only if all
// of this holds: the magic, the key (device, driver and its version, shaders), the size, the CRC-32, and the driver's
// own header in front of the data. Who may write to the directory is up to the user, as for programs.
//
//   offset  size  field
//        0     8  magic "NWCPIPE1"
//        8    68  key: UUIDs of pipeline cache, device and driver (16 each), vendor, device, driver version, CRC-32 of
//                 the device's name, where software Vulkan says how wide its vectors are, and of all shaders (u32 each)
//       76     8  u64 size of the data
//       84     4  u32 CRC-32 of the data
//       88        the driver's data
#pragma once

#include <string>
#include <vector>

#include "runtime/base/bytes.h"
#include "runtime/vulkan/device.h"

namespace nwc {

class PipelineFile {
 public:
  /// Larger files are neither read nor written.
  static constexpr uint64_t kMaxDataBytes = uint64_t{64} << 20;

  /// "DIR/pipelines-<device UUID>.bin": another driver for the same device replaces the file.
  PipelineFile(const std::string& directory, const DeviceInfo& info);

  const std::string& path() const { return path_; }
  /// The driver's data. Errors: kNotFound if there is no file, kIo, kCorrupt or kUnsupported if it is not to be used.
  Result<std::vector<uint8_t>> load() const;
  /// Replaces the file; other processes see the old one or the new one. Makes the directory if only that is missing.
  /// Errors: kLimit, kIo.
  Status store(Bytes data) const;

 private:
  std::string directory_, path_;
  std::vector<uint8_t> key_, driver_header_;
};

}  // namespace nwc
