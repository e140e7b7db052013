#include "trainer/encode/coded_parts.h"

#include <algorithm>

#include "trainer/parallel/message.h"

namespace nwc {
namespace {

std::vector<uint8_t> pack(const CodedPart& part) {
  const EncodedTensor& e = part.encoded;
  ByteWriter out;
  const QuantizedTensor& q = part.quantized;
  put_all(&out, part.statistics, q.scales.column.base, q.scales.row.base, q.scales.row.code, q.row_class);
  put_all(&out, e.crc, e.tile_rows, e.tile_cols, e.num_tiles, e.state_bytes, e.side, e.directory, e.payload);
  return out.take();
}

Result<CodedPart> unpack(Bytes bytes) {
  CodedPart part;
  EncodedTensor& e = part.encoded;
  ByteReader in(bytes);
  QuantizedTensor& q = part.quantized;
  NWC_TRY(get_all(&in, &part.statistics, &q.scales.column.base, &q.scales.row.base, &q.scales.row.code, &q.row_class));
  NWC_TRY(get_all(&in, &e.crc, &e.tile_rows, &e.tile_cols, &e.num_tiles, &e.state_bytes, &e.side, &e.directory,
                  &e.payload));
  NWC_TRY(in.expect_end("message"));
  return part;
}

}  // namespace

PartCoder::PartCoder(const ModelSource& weights, std::map<size_t, CodedPart> ready,
                     const std::vector<PlannedTensor>& plan, RateModel* rate, const FittedCodec& fitted,
                     double log_step, Ranks& ranks, Runner& runner)
    : weights_(weights),
      plan_(plan),
      rate_(*rate),
      fitted_(fitted),
      log_step_(log_step),
      ranks_(ranks),
      runner_(runner),
      tables_(fitted.codec.record),
      costs_(fitted.codec.record) {
  for (size_t i = 0; i < plan.size(); ++i) {
    if (!plan[i].coded || !(ranks.alone() || plan[i].owner == ranks.rank())) continue;
    if (const auto at = ready.find(plan[i].source); at != ready.end()) {
      coded_.emplace(i, std::move(at->second));
    } else {
      own_.push_back(i);
    }
  }
}

/// Returns how many tensors from own_[next_] on are to be quantized together.
size_t PartCoder::batch_size() const {
  const uint32_t workers = runner_.num_workers();
  size_t count = 0;
  while (next_ + count < own_.size() && count < workers) {
    const SurveyedTensor& t = *rate_.find(plan_[own_[next_ + count]].source);
    if (quantized_together(t, rate_.choices().feedback, workers) == 1) return std::max<size_t>(count, 1);
    ++count;
  }
  return count;
}

Status PartCoder::code_next() {
  const size_t count = batch_size();
  std::vector<std::vector<float>> w(count);
  std::vector<std::shared_ptr<const FeedbackFactors>> factors(count);
  for (size_t i = 0; i < count; ++i) {
    const size_t source = plan_[own_[next_ + i]].source;
    NWC_ASSIGN_OR_RETURN(w[i], weights_.read_f32(source));
    if (!rate_.choices().feedback) continue;
    NWC_ASSIGN_OR_RETURN(factors[i], rate_.factors(*rate_.find(source)));
  }
  std::vector<QuantizedTensor> quantized(count);
  std::vector<QuantizeStatistics> statistics(count);
  const auto quantize = [&](size_t i, Runner& runner) {
    const SurveyedTensor& t = *rate_.find(plan_[own_[next_ + i]].source);
    const TensorSteps steps = rate_.steps(t, log_step_, fitted_);
    quantized[i] = quantize_tensor({.codec = fitted_.codec,
                                    .costs = costs_,
                                    .rdo_strength = rate_.choices().rdo_strength,
                                    .w = w[i],
                                    .m = t.m,
                                    .n = t.n,
                                    .steps = steps,
                                    .feedback = factors[i].get(),
                                    .row_importance = t.row_importance,
                                    .tile_rows = t.tile_rows},
                                   runner, &statistics[i], nullptr);
  };
  if (count == 1) {
    quantize(0, runner_);
  } else {
    parallel_for(runner_, static_cast<uint32_t>(count), [&](uint32_t i, uint32_t) {
      const std::unique_ptr<Runner> serial = make_thread_pool(1);
      quantize(i, *serial);
    });
  }
  for (size_t i = 0; i < count; ++i) {
    CodedPart part;
    NWC_ASSIGN_OR_RETURN(part.encoded, encode_tensor(tables_, quantized[i], runner_));
    quantized[i].values = {};
    part.quantized = std::move(quantized[i]);
    part.statistics = statistics[i];
    coded_.emplace(own_[next_ + i], std::move(part));
  }
  next_ += count;
  return {};
}

Result<CodedPart> PartCoder::take(size_t index) {
  if (!ranks_.alone() && plan_[index].owner != ranks_.rank()) {
    NWC_ASSIGN_OR_RETURN(const std::vector<uint8_t> bytes, ranks_.receive(plan_[index].owner));
    return unpack(bytes);
  }
  while (coded_.find(index) == coded_.end()) NWC_TRY(code_next());
  CodedPart part = std::move(coded_.at(index));
  coded_.erase(index);
  return part;
}

Status PartCoder::send_all(const Progress& progress) {
  while (next_ < own_.size()) {
    if (!progress.report(next_, own_.size())) return Status(StatusCode::kCancelled, "cancelled while encoding");
    NWC_TRY(code_next());
    for (const auto& [index, part] : coded_) NWC_TRY(ranks_.send(0, pack(part)));
    coded_.clear();
  }
  return {};
}

}  // namespace nwc
