// A model source over one or more safetensors files.
#pragma once

#include <functional>
#include <unordered_set>

#include "trainer/data/model_source.h"
#include "trainer/data/safetensors.h"
#include "trainer/data/source_form.h"

namespace nwc {

class SafetensorsSource : public ModelSource {
 private:
  struct Place {
    size_t file;
    uint64_t offset;
    uint64_t size_bytes;
    size_t scales = kNoScales;   ///< index into scales_
    uint64_t mx_scales = kNoMx;  ///< offset of the scales of MXFP4 blocks
    size_t mx_file = 0;          ///< that they are in
    SourceForm form = SourceForm::kPlain;
    uint32_t heads = 0;                ///< of kQkvByHead
    std::vector<uint64_t> shape = {};  ///< in the checkpoint, unless kPlain
  };
  static constexpr size_t kNoScales = SIZE_MAX;
  static constexpr uint64_t kNoMx = UINT64_MAX;

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
  /// Takes each tensor X of 8-bit floats that has a matrix X_scale_inv beside it, one scale for block_rows x block_cols
  /// weights, for the product of both: X becomes F32, the scales leave the list. Returns how many there were.
  /// errors: kUnsupported (the scales do not fit; names the tensor)
  Result<size_t> multiply_block_scales(uint64_t block_rows, uint64_t block_cols);
  /// The tensor is read in the plain form from now on; its shape changes with it. heads: of kQkvByHead.
  /// errors: kUnsupported (a shape that the form cannot have; names the tensor)
  Status set_form(size_t tensor, SourceForm form, uint32_t heads);
  /// Parts of a tensor along its first dimension become tensors of their own, with these names.
  /// errors: kUnsupported (not as many parts as names, scaled weights, a part's name that another tensor has)
  Status split_tensor(size_t tensor, const std::vector<std::string>& names);
  /// Takes each tensor X_blocks of 4-bit floats, 32 of them in 16 bytes, with a tensor X_scales of a power of two for
  /// each (OCP Microscaling Formats, MXFP4) for the tensor X that they make together, in BF16, which is exact. Returns
  /// how many there were. errors: kUnsupported (they do not fit; names the tensor)
  Result<size_t> join_mxfp4();
  /// What set_form and split_tensor change, so that it can be taken back.
  struct Listing {
    std::vector<SourceTensor> tensors;
    std::vector<Place> places;
    std::unordered_set<std::string> names;
  };
  Listing listing() const { return {tensors_, places_, names_}; }
  void restore(Listing listing);
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
  struct BlockScales {
    Place place;
    Dtype weight_dtype;  ///< as stored
    Dtype scale_dtype;
    uint64_t scale_cols;
    uint64_t block_rows, block_cols;
  };

  void keep_tensors(const std::function<bool(const std::string& name)>& keep);
  Status read_at(const Place& place, const std::string& name, MutableBytes out) const;
  Status read_as_stored(size_t tensor, MutableBytes out) const;
  Status read_scaled(size_t tensor, MutableBytes out) const;
  Status read_mxfp4(size_t tensor, MutableBytes out) const;

  std::string folder_;  // empty: none
  std::vector<File> files_;
  std::vector<SourceTensor> tensors_;
  std::unordered_set<std::string> names_;
  std::vector<Place> places_;  // one per tensor
  std::vector<BlockScales> scales_;
  std::optional<ModelRecord> model_;
  std::optional<TokenizerRecord> tokenizer_;
  SourceNotes notes_;
};

}  // namespace nwc
