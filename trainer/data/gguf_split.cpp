#include "trainer/data/gguf_split.h"

#include <cstdio>

namespace nwc {
namespace {

std::string part_suffix(uint32_t number, uint32_t count) {
  char text[40];
  std::snprintf(text, sizeof text, "-%05u-of-%05u.gguf", number, count);
  return text;
}

Result<GgufFile> open_one(const std::string& path) {
  NWC_ASSIGN_OR_RETURN(std::unique_ptr<Reader> reader, open_file_reader(path));
  return GgufFile::open(std::move(reader));
}

/// Part `number` of `count`, counted from 1.
Result<GgufFile> open_part(const std::string& path, uint32_t number, uint32_t count) {
  NWC_ASSIGN_OR_RETURN(GgufFile part, open_one(path));
  uint32_t no = UINT32_MAX, parts = 0;
  NWC_TRY(part.get("split.no", &no));
  NWC_TRY(part.get("split.count", &parts));
  if (no != number - 1 || parts != count) {
    return corrupt("split.no and split.count are " + std::to_string(no) + " and " + std::to_string(parts) + ", not " +
                   std::to_string(number - 1) + " and " + std::to_string(count));
  }
  return part;
}

}  // namespace

Result<GgufFile> open_gguf_parts(const std::string& path) {
  NWC_ASSIGN_OR_RETURN(GgufFile file, open_one(path));
  uint32_t count = 0, no = UINT32_MAX;
  NWC_TRY(file.get("split.count", &count));
  if (count <= 1) return file;
  NWC_TRY(file.get("split.no", &no));
  // Five digits are the most that names have.
  const std::string suffix = no < count && count <= 99999 ? part_suffix(no + 1, count) : "";
  if (suffix.empty() || !path.ends_with(suffix)) {
    return unsupported("this is part of a model that is split into " + std::to_string(count) +
                       " files; their names must end in \"" + part_suffix(1, count) + "\" and so on");
  }
  const std::string stem = path.substr(0, path.size() - suffix.size());
  std::optional<GgufFile> whole;
  for (uint32_t number = 1; number <= count; ++number) {
    const std::string part_path = stem + part_suffix(number, count);
    Result<GgufFile> part = open_part(part_path, number, count);
    Status status = part.status();
    if (status.ok() && whole) status = whole->append(std::move(*part));
    if (!status.ok()) {
      return status.with_context("part " + std::to_string(number) + " of the split model, " + part_path);
    }
    if (!whole) whole = std::move(*part);
  }
  uint32_t tensors = static_cast<uint32_t>(whole->tensors().size());
  NWC_TRY(whole->get("split.tensors.count", &tensors));
  if (tensors != whole->tensors().size()) {
    return corrupt("split.tensors.count is " + std::to_string(tensors) + ", the parts have " +
                   std::to_string(whole->tensors().size()) + " tensors");
  }
  return std::move(*whole);
}

}  // namespace nwc
