#include "trainer/data/output_path.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <regex>

#include "runtime/base/file_kind.h"
#include "runtime/base/reader.h"
#include "runtime/format/constants.h"
#include "trainer/data/atomic_file.h"

namespace nwc {
namespace {

namespace fs = std::filesystem;

constexpr int kMostLinks = 40;     // as Linux follows
constexpr int kDeepestFolder = 8;  // of an input folder's files

Status os_error(const std::string& path, const char* what) {
  return io_error(path + ": " + what + ": " + std::strerror(errno));
}

bool same_file(const struct stat& a, const struct stat& b) { return a.st_dev == b.st_dev && a.st_ino == b.st_ino; }

std::string folder_of(const std::string& path) {
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? "." : path.substr(0, slash + 1);
}

/// Follows links that lie at `path` itself to the last name, whether or not there is a file of that name.
Result<std::string> follow_links(const std::string& path) {
  std::string at = path;
  for (int links = 0; links < kMostLinks; ++links) {
    char target[PATH_MAX];
    const ssize_t length = readlink(at.c_str(), target, sizeof target);
    if (length < 0 && (errno == EINVAL || errno == ENOENT)) return at;  // it is no link, or there is nothing
    if (length < 0) return os_error(path, "cannot be written");
    const std::string next(target, static_cast<size_t>(length));
    at = next.starts_with('/') || at.find('/') == std::string::npos ? next : folder_of(at) + next;
  }
  errno = ELOOP;
  return os_error(path, "cannot be written");
}

/// Whether a file of the folder may be replaced by `path`'s user: in /tmp and its like only by its owner.
bool may_replace(const struct stat& folder, const struct stat& file) {
  const uid_t user = geteuid();
  return (folder.st_mode & S_ISVTX) == 0 || user == 0 || user == file.st_uid || user == folder.st_uid;
}

/// A file that something else is mounted over, as containers do it with single files, cannot be replaced by a rename.
bool is_mount_point([[maybe_unused]] const std::string& path) {
#ifdef STATX_ATTR_MOUNT_ROOT  // Linux 5.8
  struct statx info;
  return statx(AT_FDCWD, path.c_str(), 0, STATX_TYPE, &info) == 0 && (info.stx_attributes & STATX_ATTR_MOUNT_ROOT) != 0;
#else
  return false;
#endif
}

/// A container or a training log: what nwc wrote into a folder is no part of the model there.
bool is_own_file(const std::string& path) {
  const Result<std::unique_ptr<Reader>> reader = open_file_reader(path);
  uint8_t begin[sizeof kMagic];
  if (!reader.ok() || !(*reader)->read(0, begin).ok()) return false;
  return std::memcmp(begin, kMagic, sizeof begin) == 0 || std::memcmp(begin, "{\"step\":", sizeof begin) == 0;
}

/// Whether a file somewhere in the folder is `file`.
bool holds(const std::string& folder, const struct stat& file) {
  std::error_code error;
  for (fs::recursive_directory_iterator at(folder, fs::directory_options::skip_permission_denied, error), end;
       !error && at != end; at.increment(error)) {
    if (at.depth() >= kDeepestFolder) at.disable_recursion_pending();
    struct stat info;
    if (stat(at->path().c_str(), &info) == 0 && same_file(info, file)) return true;
  }
  return false;
}

/// Whether `file` is a part of the split GGUF model that `input` is a part of: all are read, whichever was named.
bool is_part_beside(const std::string& input, const struct stat& file) {
  static const std::regex kPart("(.*)-[0-9]{5}-of-([0-9]{5})\\.gguf");
  std::smatch match;
  if (!std::regex_match(input, match, kPart)) return false;
  for (int number = 1, count = std::atoi(match[2].str().c_str()); number <= count; ++number) {
    char suffix[32];
    std::snprintf(suffix, sizeof suffix, "-%05d-of-%05d.gguf", number, count);
    struct stat info;
    if (stat((match[1].str() + suffix).c_str(), &info) == 0 && same_file(info, file)) return true;
  }
  return false;
}

/// An output that exists must be no input.
Status check_against(const std::string& output, const struct stat& file, std::span<const std::string> inputs) {
  for (const std::string& input : inputs) {
    struct stat info;
    if (input.empty() || stat(input.c_str(), &info) != 0) continue;
    if (same_file(info, file))
      return invalid_argument(output + ": is the input " + input + " itself, which would be lost; give another name");
    if (is_part_beside(input, file))
      return invalid_argument(output + ": is a part of the input " + input +
                              ", which would be lost; give another name");
    if (S_ISDIR(info.st_mode) && S_ISREG(file.st_mode) && holds(input, file) && !is_own_file(output))
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
  struct stat info;
  if (stat(path.c_str(), &info) != 0) return probe(path);
  if (S_ISDIR(info.st_mode) || S_ISSOCK(info.st_mode))
    return invalid_argument(path + ": is " + file_kind(info.st_mode) + "; give the name of a file");
  return access(path.c_str(), W_OK) == 0 ? Status() : os_error(path, "cannot be written");
}

}  // namespace

Result<std::string> resolve_output(const std::string& path) {
  if (path.empty()) return invalid_argument("the output's name is empty");
  if (path == "-") return invalid_argument("-: stdout cannot be written to; for a file of this name give ./-");
  struct stat info;
  const bool exists = stat(path.c_str(), &info) == 0;
  if (exists && !S_ISREG(info.st_mode))
    return invalid_argument(path + ": is " + file_kind(info.st_mode) +
                            ", which cannot be replaced by a whole file; give the name of a plain file");
  if (!exists && errno != ENOENT) return os_error(path, "cannot be written");
  if (path.back() == '/') return invalid_argument(path + ": names a folder; give the name of a file");
  NWC_ASSIGN_OR_RETURN(const std::string target, follow_links(path));
  if (target.back() == '/') return invalid_argument(path + ": names a folder; give the name of a file");

  const std::string folder = folder_of(target);
  struct stat around, there;
  if (stat(folder.c_str(), &around) != 0) {
    if (errno == ENOENT) return invalid_argument(path + ": the folder " + folder + " does not exist; make it first");
    return os_error(path, "cannot be written");
  }
  // access(), not the mode: it knows of read-only file systems too.
  if (access(folder.c_str(), W_OK | X_OK) != 0) return os_error(path, ("no file can be made in " + folder).c_str());
  // A file that has been deleted but is still open has a name in /proc, behind which there is nothing to replace.
  if (exists && (stat(target.c_str(), &there) != 0 || !same_file(info, there)))
    return invalid_argument(path + ": is no name of a file that could be replaced");
  if (exists && access(path.c_str(), W_OK) != 0) return os_error(path, "cannot be replaced");
  if (exists && is_mount_point(target))
    return invalid_argument(path + ": something is mounted there, so that it cannot be replaced; give another name");
  if (exists && !may_replace(around, info)) {
    errno = EPERM;
    return os_error(path, "cannot be replaced");
  }
  return target;
}

Status check_outputs(std::span<const Output> outputs, std::span<const std::string> inputs) {
  std::vector<std::pair<std::string, std::string>> taken;  // the file, and its name in the command
  for (const Output& output : outputs) {
    if (output.path.empty()) continue;
    struct stat file;
    // First: that it is an input says more than that a FIFO, say, cannot be replaced.
    if (stat(output.path.c_str(), &file) == 0) NWC_TRY(check_against(output.path, file, inputs));
    NWC_TRY(output.stream ? check_stream(output.path) : probe(output.path));
    std::string target = output.path;
    if (!output.stream) {
      NWC_ASSIGN_OR_RETURN(target, resolve_output(output.path));
    }
    std::error_code ignored;
    const std::string canonical = fs::weakly_canonical(target, ignored).string();
    for (const auto& [other, name] : taken) {
      if (other == canonical) return invalid_argument(output.path + ": is the output " + name + " too; give two names");
    }
    taken.emplace_back(canonical, output.path);
  }
  return {};
}

}  // namespace nwc
