// A model source over one or more safetensors files.
#pragma once

#include <functional>
#include <unordered_set>

#include "trainer/data/model_source.h"
#include "trainer/data/safetensors.h"

namespace nwc {

class SafetensorsSource : public ModelSource {
 public:
  /// Opens `path` and adds its tensors, or those that `keep` takes by their names. errors: those of
  /// read_safetensors_header, kIo, kCorrupt (a name that another file has), each with `label` in front
  Status add_file(const std::string& path, const std::string& label,
                  const std::function<bool(const std::string& name)>& keep = {});
  /// Both do nothing if there is no tensor of that name; renaming, too, if there is one of the new name.
  void drop_tensor(const std::string& name);
  void rename_tensor(const std::string& from, const std::string& to);
  /// Whether both tensors have the same type, shape and bytes; reads no further than to the first difference.
  Result<bool> same_content(size_t a, size_t b) const;
  void set_model(ModelRecord model) { model_ = std::move(model); }
  void set_tokenizer(TokenizerRecord tokenizer) { tokenizer_ = std::move(tokenizer); }
  /// The Hugging Face folder that source_files() reads.
  void set_folder(std::string folder) { folder_ = std::move(folder); }
  void add_note(SourceNote note) { notes_.push_back(std::move(note)); }

  const std::vector<SourceTensor>& tensors() const override { return tensors_; }
  Status read_raw(size_t tensor, MutableBytes out) const override;
  const std::optional<ModelRecord>& model() const override { return model_; }
  const std::optional<TokenizerRecord>& tokenizer() const override { return tokenizer_; }
  uint64_t stored_bytes() const override;
  Result<SourceFiles> source_files() const override;
  const SourceNotes& notes() const override { return notes_; }

 private:
  struct File {
    std::string label;
    std::unique_ptr<Reader> reader;
  };
  struct Place {
    size_t file;
    uint64_t offset;
    uint64_t size_bytes;
  };

  std::string folder_;  // empty: none
  std::vector<File> files_;
  std::vector<SourceTensor> tensors_;
  std::unordered_set<std::string> names_;
  std::vector<Place> places_;  // one per tensor
  std::optional<ModelRecord> model_;
  std::optional<TokenizerRecord> tokenizer_;
  SourceNotes notes_;
};

}  // namespace nwc
