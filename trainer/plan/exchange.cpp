#include "trainer/plan/exchange.h"

#include "trainer/parallel/message.h"

namespace nwc {
namespace {

void put_survey(ByteWriter* out, const PlannedTensor& p, const SurveyedTensor& s) {
  put_all(out, p.coded, p.values, p.why_raw, s.log_step, s.row_importance, s.damping);
  const StepProfile& f = s.profile;
  put_all(out, f.m, f.n, f.column_step, f.deviation, f.peak, f.row_step, f.row_class, f.class_weight);
}

Status get_survey(ByteReader* in, PlannedTensor* p, SurveyedTensor* s) {
  NWC_TRY(get_all(in, &p->coded, &p->values, &p->why_raw, &s->log_step, &s->row_importance, &s->damping));
  StepProfile& f = s->profile;
  return get_all(in, &f.m, &f.n, &f.column_step, &f.deviation, &f.peak, &f.row_step, &f.row_class, &f.class_weight);
}

void put_values(ByteWriter* out, const ValueStatistics& values) {
  for (const ValueHistogram& h : values.histograms) put_all(out, h.first(), h.counts());
  put_all(out, values.excess, values.nonzero);
}

/// *values: empty, of the same codec.
Status get_values(ByteReader* in, ValueStatistics* values) {
  for (ValueHistogram& h : values->histograms) {
    int32_t first = 0;
    std::vector<double> counts;
    NWC_TRY(get_all(in, &first, &counts));
    for (size_t i = 0; i < counts.size(); ++i) h.add(static_cast<int16_t>(first + static_cast<int32_t>(i)), counts[i]);
  }
  return get_all(in, &values->excess, &values->nonzero);
}

}  // namespace

Status exchange_surveys(Ranks& ranks, std::vector<PlannedTensor>* plan, std::vector<SurveyedTensor>* tensors) {
  if (ranks.alone()) return {};
  std::vector<PlannedTensor*> planned;  // by tensor
  size_t next = 0;
  for (PlannedTensor& p : *plan) {
    if (next < tensors->size() && (*tensors)[next].source == p.source) {
      planned.push_back(&p);
      ++next;
    }
  }
  ByteWriter own;
  for (size_t i = 0; i < tensors->size(); ++i) {
    if ((*tensors)[i].owner == ranks.rank()) put_survey(&own, *planned[i], (*tensors)[i]);
  }
  NWC_ASSIGN_OR_RETURN(const std::vector<std::vector<uint8_t>> all, gather_to_all(ranks, own.take()));
  std::vector<ByteReader> readers(all.begin(), all.end());
  for (size_t i = 0; i < tensors->size(); ++i) {
    SurveyedTensor& s = (*tensors)[i];
    if (s.owner != ranks.rank()) NWC_TRY(get_survey(&readers[s.owner], planned[i], &s));
  }
  return {};
}

Status gather_samples(Ranks& ranks, const CodecRecord& codec, const std::vector<SurveyedTensor>& tensors, size_t begin,
                      size_t end, bool with_values, std::vector<SampledTensor>* parts) {
  if (ranks.alone()) return {};
  ByteWriter own;
  for (size_t i = begin; i < end && !ranks.first(); ++i) {
    if (tensors[i].owner != ranks.rank() || tensors[i].sample_rows.empty()) continue;
    const SampledTensor& part = (*parts)[i];
    put_all(&own, part.bytes, part.weighted_error, part.scale);
    if (with_values) put_values(&own, *part.values);
  }
  NWC_ASSIGN_OR_RETURN(const std::vector<std::vector<uint8_t>> all, gather(ranks, own.take()));
  if (!ranks.first()) return {};
  std::vector<ByteReader> readers(all.begin(), all.end());
  for (size_t i = begin; i < end; ++i) {
    const uint32_t owner = tensors[i].owner;
    if (owner == 0 || tensors[i].sample_rows.empty()) continue;
    SampledTensor& part = (*parts)[i];
    NWC_TRY(get_all(&readers[owner], &part.bytes, &part.weighted_error, &part.scale));
    part.values = std::make_unique<ValueStatistics>(codec);
    if (with_values) NWC_TRY(get_values(&readers[owner], part.values.get()));
  }
  return {};
}

Status share_values(Ranks& ranks, ValueStatistics* values) {
  if (ranks.alone()) return {};
  ByteWriter writer;
  if (ranks.first()) put_values(&writer, *values);
  std::vector<uint8_t> bytes = writer.take();
  NWC_TRY(broadcast(ranks, &bytes));
  if (ranks.first()) return {};
  ByteReader reader(bytes);
  return get_values(&reader, values);
}

}  // namespace nwc
