// A model source over one or more safetensors files.
#pragma once

#include "trainer/data/model_source.h"
#include "trainer/data/safetensors.h"

namespace nwc {

class SafetensorsSource : public ModelSource {
 public:
  /// Opens `path` and adds its tensors. errors: those of read_safetensors_header, kIo, kCorrupt (a name that another
  /// file has), each with `label` in front
  Status add_file(const std::string& path, const std::string& label);
  /// Removes the tensor from the list, if it is there.
  void drop_tensor(const std::string& name);
  void set_model(ModelRecord model) { model_ = std::move(model); }
  void set_tokenizer(TokenizerRecord tokenizer) { tokenizer_ = std::move(tokenizer); }
  /// The Hugging Face folder that source_files() reads.
  void set_folder(std::string folder) { folder_ = std::move(folder); }
  void add_note(SourceNote note) { notes_.push_back(std::move(note)); }
  /// Label of the file that holds tensor i.
  const std::string& file_of(size_t tensor) const { return files_[places_[tensor].file].label; }

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
  std::vector<Place> places_;  // one per tensor
  std::optional<ModelRecord> model_;
  std::optional<TokenizerRecord> tokenizer_;
  SourceNotes notes_;
};

}  // namespace nwc
