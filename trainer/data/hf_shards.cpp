#include "trainer/data/hf_shards.h"

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "trainer/data/fs_path.h"
#include "trainer/data/json_checked.h"
#include "trainer/data/tensor_limits.h"

namespace nwc {
namespace {

constexpr char kSingleFile[] = "model.safetensors";
constexpr char kIndexFile[] = "model.safetensors.index.json";

using FileOf = std::map<std::string, std::string>;  // tensor -> file

bool stays_inside(const std::string& name) {
  if (name.empty() || name.front() == '/' || name.find_first_of(std::string("\\\0", 2)) != name.npos) return false;
  for (const std::filesystem::path& part : fs_path(name)) {
    if (part == "..") return false;
  }
  return fs_path(name).has_filename() && name != ".";
}

// errors: kUnrecognized (no index: the text has another form), kCorrupt (a path that leads outside)
Result<FileOf> parse_index(Bytes text) {
  const auto other_form = [](const std::string& why) { return Status(StatusCode::kUnrecognized, why); };
  const Result<nlohmann::json> json = parse_json(text, kIndexFile);
  if (!json.ok()) return other_form(json.status().message());
  const nlohmann::json* map = find_field(*json, "weight_map");
  if (map == nullptr || !map->is_object()) return other_form(std::string(kIndexFile) + ": no weight_map");
  FileOf file_of;
  for (const auto& [tensor, file] : map->items()) {
    const std::string where = std::string(kIndexFile) + ": " + quote_tensor(tensor);
    if (!file.is_string()) return other_form(where + " has no file name");
    const std::string& name = file.get_ref<const std::string&>();
    if (!stays_inside(name)) return corrupt(where + " points outside the directory");
    file_of[tensor] = name;
  }
  return file_of;
}

// "model-00002-of-00003.safetensors" says that there are three: all have to be here.
Status check_complete(const std::vector<std::string>& names) {
  constexpr std::string_view kForm = "-00001-of-00001.safetensors";
  const auto is_digits = [](std::string_view text) { return text.find_first_not_of("0123456789") == text.npos; };
  const std::set<std::string> present(names.begin(), names.end());
  for (const std::string& name : names) {
    if (name.size() < kForm.size()) continue;
    const std::string stem = name.substr(0, name.size() - kForm.size()), end = name.substr(stem.size());
    if (end[0] != '-' || !is_digits(end.substr(1, 5)) || end.substr(6, 4) != "-of-" || !is_digits(end.substr(10, 5)) ||
        end.substr(15) != ".safetensors") {
      continue;
    }
    const int count = std::stoi(end.substr(10, 5));
    const int first = present.count(stem + "-00000" + end.substr(6)) != 0 ? 0 : 1;
    for (int i = first; i < first + count; ++i) {
      const std::string number = std::to_string(i);
      const std::string wanted = stem + "-" + std::string(5 - number.size(), '0') + number + end.substr(6);
      if (present.count(wanted) == 0) return corrupt(wanted + " is missing, a part of the model beside " + name);
    }
  }
  return {};
}

// Files that are there and that the model is not made of.
void note_other_files(const HfFolder& folder, const std::set<std::string>& used, const char* decides,
                      SafetensorsSource* source) {
  std::vector<std::string> others;
  for (const std::string& name : folder.list(".safetensors")) {
    if (used.count(name) == 0) others.push_back(name);
  }
  if (others.empty()) return;
  source->add_note({NoteKind::kTensorsLeftOut, "",
                    "all of " + list_names(others) + ", since " + decides + " decides which files are the model"});
}

Status add_indexed_files(const HfFolder& folder, const FileOf& file_of, SafetensorsSource* source) {
  std::set<std::string> files;
  for (const auto& [tensor, file] : file_of) files.insert(file);
  std::vector<std::string> unlisted, copies;
  std::map<std::string, std::string> place_of_copy;
  for (const std::string& file : files) {
    if (!folder.has(file)) return corrupt(file + " is missing, though " + kIndexFile + " lists tensors in it");
    NWC_TRY(source->add_file(folder.file(file), file, [&](const std::string& name) {
      const auto listed = file_of.find(name);
      if (listed == file_of.end()) {
        unlisted.push_back(name);
      } else if (listed->second != file) {
        place_of_copy.emplace(name, file);
      }
      return listed != file_of.end() && listed->second == file;
    }));
  }

  std::set<std::string> found;
  for (const SourceTensor& tensor : source->tensors()) found.insert(tensor.name);
  std::vector<std::string> moved, absent;
  for (const auto& [tensor, file] : file_of) {
    if (found.count(tensor) != 0) continue;
    (place_of_copy.count(tensor) != 0 ? moved : absent).push_back(tensor);
  }
  for (const std::string& tensor : moved) {
    const std::string& file = place_of_copy[tensor];
    NWC_TRY(source->add_file(folder.file(file), file, [&](const std::string& name) { return name == tensor; }));
    place_of_copy.erase(tensor);
  }
  for (const auto& [tensor, file] : place_of_copy) copies.push_back(tensor);

  const auto note = [&](NoteKind kind, const char* subject, const std::vector<std::string>& names, const char* why) {
    if (!names.empty()) source->add_note({kind, subject, list_names(names) + std::string(why) + kIndexFile});
  };
  note(NoteKind::kTensorsLeftOut, "", unlisted, ", not listed by ");
  note(NoteKind::kTensorsLeftOut, "", copies, " (second copies in other files than those of the index), by ");
  note(NoteKind::kTensorsLeftOut, "", absent, ", which no file holds, though listed by ");
  note(NoteKind::kRepaired, "index", moved, " read from another file than listed by ");
  note_other_files(folder, files, kIndexFile, source);
  return {};
}

}  // namespace

Status add_hf_tensors(const HfFolder& folder, SafetensorsSource* source) {
  if (folder.has(kSingleFile)) {
    NWC_TRY(source->add_file(folder.file(kSingleFile), kSingleFile));
    note_other_files(folder, {kSingleFile}, kSingleFile, source);
    return {};
  }
  if (folder.has(kIndexFile)) {
    NWC_ASSIGN_OR_RETURN(const std::vector<uint8_t> text, folder.load(kIndexFile));
    Result<FileOf> file_of = parse_index(text);
    if (file_of.ok() && !file_of->empty()) return add_indexed_files(folder, *file_of, source);
    if (!file_of.ok() && file_of.status().code() != StatusCode::kUnrecognized) return file_of.status();
    const std::string why = file_of.ok() ? std::string(kIndexFile) + " lists nothing" : file_of.status().message();
    source->add_note({NoteKind::kRepaired, "index", why + "; every safetensors file is read instead"});
  }
  const std::vector<std::string> names = folder.list(".safetensors");
  if (names.empty()) {
    const bool pickled = !folder.list(".bin").empty() || !folder.list(".pth").empty();
    return Status(StatusCode::kUnrecognized,
                  std::string("no safetensors file in this directory") +
                      (pickled ? "; PyTorch's .bin and .pth files are not read, convert them to safetensors" : ""));
  }
  NWC_TRY(check_complete(names));
  for (const std::string& name : names) NWC_TRY(source->add_file(folder.file(name), name));
  return {};
}

}  // namespace nwc
