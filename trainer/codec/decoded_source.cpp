#include "trainer/codec/decoded_source.h"

#include <mutex>

namespace nwc {
namespace {

class DecodedSource final : public ModelSource {
 public:
  DecodedSource(const ModelSource& source, std::unique_ptr<NwcFile> file, std::unique_ptr<Decoder> decoder,
                std::vector<size_t> places)
      : source_(source),
        tensors_(source.tensors()),
        file_(std::move(file)),
        decoder_(std::move(decoder)),
        places_(std::move(places)) {
    for (SourceTensor& t : tensors_) {
      if (dtype_is_float(t.dtype)) t.dtype = Dtype::kF32;
    }
  }
  const std::vector<SourceTensor>& tensors() const override { return tensors_; }
  const std::optional<ModelRecord>& model() const override { return source_.model(); }
  const std::optional<TokenizerRecord>& tokenizer() const override { return source_.tokenizer(); }
  uint64_t stored_bytes() const override { return source_.stored_bytes(); }
  Status read_raw(size_t tensor, MutableBytes out) const override {
    if (tensors_[tensor].dtype != Dtype::kF32) return source_.read_raw(tensor, out);
    const std::lock_guard<std::mutex> lock(mutex_);  // the pool works for one caller at a time
    DecodeRequest request;
    request.tensor = places_[tensor];
    request.row_end = file_->tensors()[request.tensor].rows();
    request.dtype = Dtype::kF32;
    request.out = out;
    return decoder_->decode(request);
  }

 private:
  const ModelSource& source_;
  std::vector<SourceTensor> tensors_;
  const std::unique_ptr<NwcFile> file_;
  const std::unique_ptr<Decoder> decoder_;
  const std::vector<size_t> places_;  ///< in the file
  mutable std::mutex mutex_;
};

}  // namespace

Result<std::unique_ptr<ModelSource>> open_decoded_source(std::unique_ptr<Reader> reader, const ModelSource& source,
                                                         Runner& runner) {
  NWC_ASSIGN_OR_RETURN(std::unique_ptr<NwcFile> file, NwcFile::open(std::move(reader)));
  std::vector<size_t> places;
  for (const SourceTensor& t : source.tensors()) {
    const std::optional<size_t> place = file->find(t.name);
    if (!place || file->tensors()[*place].shape != t.shape)
      return corrupt("the file was made of another model: it lacks tensor " + t.name + " of the same shape");
    places.push_back(*place);
  }
  NWC_ASSIGN_OR_RETURN(std::unique_ptr<Decoder> decoder, create_cpu_decoder(*file, runner, detect_cpu_level()));
  return std::unique_ptr<ModelSource>(
      std::make_unique<DecodedSource>(source, std::move(file), std::move(decoder), std::move(places)));
}

}  // namespace nwc
