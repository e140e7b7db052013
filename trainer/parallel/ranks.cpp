#include "trainer/parallel/ranks.h"

#include <cstdlib>

#include "trainer/parallel/message.h"

namespace nwc {
namespace {

Status no_other() { return Status(StatusCode::kInternal, "there is no other rank"); }

}  // namespace

Status Ranks::send(uint32_t, std::vector<uint8_t>) { return no_other(); }
Result<std::vector<uint8_t>> Ranks::receive(uint32_t) { return no_other(); }
void Ranks::abort(int exit_code) { std::_Exit(exit_code); }

Ranks& one_rank() {
  static Ranks ranks;
  return ranks;
}

Status broadcast(Ranks& ranks, std::vector<uint8_t>* bytes) {
  // A rank receives from the one whose number lacks its lowest bit, and passes on to those that have one lower bit
  // more.
  const uint32_t rank = ranks.rank();
  uint32_t bit = 1;
  for (; bit < ranks.size() && (rank & bit) == 0; bit <<= 1) continue;
  if (rank != 0) {
    NWC_ASSIGN_OR_RETURN(*bytes, ranks.receive(rank - bit));
  }
  for (bit >>= 1; bit != 0; bit >>= 1) {
    if (rank + bit < ranks.size()) NWC_TRY(ranks.send(rank + bit, *bytes));
  }
  return {};
}

Result<std::vector<std::vector<uint8_t>>> gather(Ranks& ranks, std::vector<uint8_t> bytes) {
  std::vector<std::vector<uint8_t>> all;
  if (!ranks.first()) {
    NWC_TRY(ranks.send(0, std::move(bytes)));
    return all;
  }
  all.push_back(std::move(bytes));
  for (uint32_t from = 1; from < ranks.size(); ++from) {
    NWC_ASSIGN_OR_RETURN(all.emplace_back(), ranks.receive(from));
  }
  return all;
}

Result<std::vector<std::vector<uint8_t>>> gather_to_all(Ranks& ranks, std::vector<uint8_t> bytes) {
  NWC_ASSIGN_OR_RETURN(std::vector<std::vector<uint8_t>> all, gather(ranks, std::move(bytes)));
  all.resize(ranks.size());
  for (std::vector<uint8_t>& one : all) NWC_TRY(share(ranks, &one));
  return all;
}

}  // namespace nwc
