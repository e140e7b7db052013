#include "trainer/calib/second_moments.h"

#include <algorithm>
#include <cstring>

#include "trainer/linalg/multiply.h"
#include "trainer/parallel/message.h"
#include "trainer/parallel/relay.h"

namespace nwc {
namespace {

/// Rows of a sum that one task computes; tokens that it takes at a time.
constexpr Eigen::Index kBand = 128;
constexpr Eigen::Index kTokens = 1024;

struct Band {
  SecondMoment* moment;
  Eigen::Index begin;

  Eigen::Index rows() const { return std::min(kBand, moment->sum.cols() - begin); }
  Eigen::Index cols() const { return begin + rows(); }
};

void add_part(const Band& band, const MomentPart& part, RowMatrix<float>* scratch) {
  for (Eigen::Index first = 0; first < part.count; first += kTokens) {
    const Eigen::Index count = std::min(kTokens, part.count - first);
    *scratch = part.x->block(part.begin + first, band.begin, count, band.rows());
    if (part.weight != nullptr) {
      for (Eigen::Index t = 0; t < count; ++t) scratch->row(t) *= part.weight[first + t];
    }
    multiply<float>(Form::kAtB, *scratch, part.x->block(part.begin + first, 0, count, band.cols()), true,
                    band.moment->sum.block(band.begin, 0, band.rows(), band.cols()));
  }
}

uint64_t row_bytes(const Band& band) { return static_cast<uint64_t>(band.cols()) * sizeof(float); }

std::vector<uint8_t> pack(std::span<const Band> bands) {
  uint64_t size = 0;
  for (const Band& band : bands) size += static_cast<uint64_t>(band.rows()) * row_bytes(band);
  std::vector<uint8_t> bytes(static_cast<size_t>(size));
  uint8_t* at = bytes.data();
  for (const Band& band : bands) {
    for (Eigen::Index r = 0; r < band.rows(); ++r, at += row_bytes(band))
      std::memcpy(at, &band.moment->sum(band.begin + r, 0), row_bytes(band));
  }
  return bytes;
}

Status receive_bands(Ranks& ranks, uint32_t from, std::span<const Band> bands) {
  NWC_ASSIGN_OR_RETURN(const std::vector<uint8_t> bytes, ranks.receive(from));
  const uint8_t* at = bytes.data();
  const uint8_t* const end = at + bytes.size();
  for (const Band& band : bands) {
    for (Eigen::Index r = 0; r < band.rows(); ++r, at += row_bytes(band)) {
      if (static_cast<uint64_t>(end - at) < row_bytes(band))
        return Status(StatusCode::kInternal, "ranks differ in the sizes of second moments");
      std::memcpy(&band.moment->sum(band.begin + r, 0), at, row_bytes(band));
    }
  }
  return {};
}

void add_weights(std::span<SecondMoment* const> moments) {
  for (SecondMoment* moment : moments) {
    for (const MomentPart& part : moment->parts) {
      for (Eigen::Index t = 0; t < part.count && part.weight != nullptr; ++t)
        moment->effective.add(double{part.weight[t]});
    }
  }
}

}  // namespace

void SecondMoment::finish(double tokens) {
  sum *= static_cast<float>(1.0 / tokens);
  for (Eigen::Index r = 0; r < sum.rows(); ++r) {
    for (Eigen::Index c = r + 1; c < sum.cols(); ++c) sum(r, c) = sum(c, r);
  }
}

Status add_moments(std::span<SecondMoment* const> moments, Ranks& ranks, Runner& runner) {
  std::vector<double*> effective;
  for (SecondMoment* moment : moments) {
    effective.push_back(&moment->effective.sum);
    effective.push_back(&moment->effective.squares);
  }
  NWC_TRY(relay(ranks, effective, [&] { add_weights(moments); }));
  std::vector<Band> bands;
  for (SecondMoment* moment : moments) {
    for (Eigen::Index begin = 0; begin < moment->sum.rows(); begin += kBand) bands.push_back({moment, begin});
  }
  // The longest bands first, so that no thread ends up alone with one.
  std::stable_sort(bands.begin(), bands.end(), [](const Band& a, const Band& b) { return a.begin > b.begin; });
  // As many bands as rank 0 has threads go from rank to rank together: fewer would leave threads idle, more ranks.
  size_t together = ranks.alone() ? std::max<size_t>(1, bands.size()) : runner.num_workers();
  NWC_TRY(share(ranks, &together));
  const auto group = [&](size_t at) { return std::span(bands).subspan(at, std::min(together, bands.size() - at)); };
  std::vector<RowMatrix<float>> scratch(runner.num_workers());
  for (size_t at = 0; at < bands.size(); at += together) {
    const std::span<const Band> some = group(at);
    if (!ranks.first()) NWC_TRY(receive_bands(ranks, ranks.rank() - 1, some));
    parallel_for(runner, static_cast<uint32_t>(some.size()), [&](uint32_t i, uint32_t worker) {
      for (const MomentPart& part : some[i].moment->parts) add_part(some[i], part, &scratch[worker]);
    });
    if (!ranks.last()) NWC_TRY(ranks.send(ranks.rank() + 1, pack(some)));
  }
  // Not before: rank 0 would not receive while it waits for the ranks behind it.
  for (size_t at = 0; at < bands.size() && !ranks.alone(); at += together) {
    if (ranks.last()) NWC_TRY(ranks.send(0, pack(group(at))));
    if (ranks.first()) NWC_TRY(receive_bands(ranks, ranks.size() - 1, group(at)));
  }
  return {};
}

}  // namespace nwc
