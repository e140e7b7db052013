#include "trainer/data/output_path.h"

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <regex>

#include "runtime/base/reader.h"
#include "runtime/format/constants.h"
#include "trainer/data/atomic_file.h"
#include "trainer/data/fs_path.h"
#include "trainer/data/os_files.h"

namespace nwc {
namespace {

namespace fs = std::filesystem;

constexpr int kDeepestFolder = 8;  // of an input folder's files

Status os_error(const std::string& path, const char* what) {
  return io_error(path + ": " + what + ": " + std::strerror(errno));
}

bool same_file(const os::FileStatus& a, const os::FileStatus& b) { return a.device == b.device && a.node == b.node; }

bool names_folder(const std::string& path) { return os::name_begin(path) == path.size(); }

/// A container or a training log: what nwc wrote into a folder is no part of the model there.
bool is_own_file(const std::string& path) {
  const Result<std::unique_ptr<Reader>> reader = open_file_reader(path);
  uint8_t begin[sizeof kMagic];
  if (!reader.ok() || !(*reader)->read(0, begin).ok()) return false;
  return std::memcmp(begin, kMagic, sizeof begin) == 0 || std::memcmp(begin, "{\"step\":", sizeof begin) == 0;
}

/// Whether a file somewhere in the folder is `file`.
bool holds(const std::string& folder, const os::FileStatus& file) {
  std::error_code error;
  for (fs::recursive_directory_iterator at(fs_path(folder), fs::directory_options::skip_permission_denied, error), end;
       !error && at != end; at.increment(error)) {
    if (at.depth() >= kDeepestFolder) at.disable_recursion_pending();
    os::FileStatus info;
    if (os::status_of(at->path().string(), &info) && same_file(info, file)) return true;
  }
  return false;
}

/// Whether `file` is a part of the split GGUF model that `input` is a part of: all are read, whichever was named.
bool is_part_beside(const std::string& input, const os::FileStatus& file) {
  static const std::regex kPart("(.*)-[0-9]{5}-of-([0-9]{5})\\.gguf");
  std::smatch match;
  if (!std::regex_match(input, match, kPart)) return false;
  for (int number = 1, count = std::atoi(match[2].str().c_str()); number <= count; ++number) {
    char suffix[32];
    std::snprintf(suffix, sizeof suffix, "-%05d-of-%05d.gguf", number, count);
    os::FileStatus info;
    if (os::status_of(match[1].str() + suffix, &info) && same_file(info, file)) return true;
  }
  return false;
}

/// An output that exists must be no input.
Status check_against(const std::string& output, const os::FileStatus& file, std::span<const std::string> inputs) {
  for (const std::string& input : inputs) {
    os::FileStatus info;
    if (input.empty() || !os::status_of(input, &info)) continue;
    if (same_file(info, file))
      return invalid_argument(output + ": is the input " + input + " itself, which would be lost; give another name");
    if (is_part_beside(input, file))
      return invalid_argument(output + ": is a part of the input " + input +
                              ", which would be lost; give another name");
    if (info.kind == os::FileKind::kFolder && file.kind == os::FileKind::kPlain && holds(input, file) &&
        !is_own_file(output))
      return invalid_argument(output + ": is a file of the input folder " + input +
                              ", which would be lost; give another name");
  }
  return {};
}

/// Makes a file beside the output and removes it: no question tells as surely that there is one to be made, for network
/// and virtual file systems answer what they like.
Status probe(const std::string& path) { return as_status(AtomicFile::create(path)); }

/// A log that exists is opened as it is.
Status check_stream(const std::string& path) {
  os::FileStatus info;
  if (!os::status_of(path, &info)) return probe(path);
  if (info.kind == os::FileKind::kFolder || info.kind == os::FileKind::kSocket)
    return invalid_argument(path + ": is " + os::kind_name(info.kind) + "; give the name of a file");
  return os::may_write(path) ? Status() : os_error(path, "cannot be written");
}

}  // namespace

Result<std::string> resolve_output(const std::string& path) {
  if (path.empty()) return invalid_argument("the output's name is empty");
  if (path == "-") return invalid_argument("-: stdout cannot be written to; for a file of this name give ./-");
  os::FileStatus info;
  const bool exists = os::status_of(path, &info);
  if (exists && info.kind != os::FileKind::kPlain)
    return invalid_argument(path + ": is " + os::kind_name(info.kind) +
                            ", which cannot be replaced by a whole file; give the name of a plain file");
  if (!exists && errno != ENOENT) return os_error(path, "cannot be written");
  if (names_folder(path)) return invalid_argument(path + ": names a folder; give the name of a file");
  std::string target;
  if (!os::follow_links(path, &target)) return os_error(path, "cannot be written");
  if (names_folder(target)) return invalid_argument(path + ": names a folder; give the name of a file");

  const std::string folder = os::folder_of(target);
  os::FileStatus around, there;
  if (!os::status_of(folder, &around)) {
    if (errno == ENOENT) return invalid_argument(path + ": the folder " + folder + " does not exist; make it first");
    return os_error(path, "cannot be written");
  }
  if (!os::may_write_in(folder)) return os_error(path, ("no file can be made in " + folder).c_str());
  // A file that has been deleted but is still open has a name in /proc, behind which there is nothing to replace.
  if (exists && (!os::status_of(target, &there) || !same_file(info, there)))
    return invalid_argument(path + ": is no name of a file that could be replaced");
  if (exists && !os::may_write(path)) return os_error(path, "cannot be replaced");
  if (exists && os::is_mount_point(target))
    return invalid_argument(path + ": something is mounted there, so that it cannot be replaced; give another name");
  if (exists && !os::may_replace(around, info)) {
    errno = EPERM;
    return os_error(path, "cannot be replaced");
  }
  return target;
}

Status check_outputs(std::span<const Output> outputs, std::span<const std::string> inputs) {
  std::vector<std::pair<std::string, std::string>> taken;  // the file, and its name in the command
  for (const Output& output : outputs) {
    if (output.path.empty()) continue;
    os::FileStatus file;
    // First: that it is an input says more than that a FIFO, say, cannot be replaced.
    if (os::status_of(output.path, &file)) NWC_TRY(check_against(output.path, file, inputs));
    NWC_TRY(output.stream ? check_stream(output.path) : probe(output.path));
    std::string target = output.path;
    if (!output.stream) {
      NWC_ASSIGN_OR_RETURN(target, resolve_output(output.path));
    }
    std::error_code ignored;
    const std::string canonical = fs::weakly_canonical(fs_path(target), ignored).string();
    for (const auto& [other, name] : taken) {
      if (other == canonical) return invalid_argument(output.path + ": is the output " + name + " too; give two names");
    }
    taken.emplace_back(canonical, output.path);
  }
  return {};
}

}  // namespace nwc
