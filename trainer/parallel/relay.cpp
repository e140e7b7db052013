#include "trainer/parallel/relay.h"

#include "trainer/parallel/message.h"

namespace nwc {
namespace {

Status send_numbers(Ranks& ranks, uint32_t to, std::span<double* const> numbers) {
  ByteWriter out;
  for (const double* number : numbers) out.write(*number);
  return ranks.send(to, out.take());
}

Status receive_numbers(Ranks& ranks, uint32_t from, std::span<double* const> numbers) {
  NWC_ASSIGN_OR_RETURN(const std::vector<uint8_t> bytes, ranks.receive(from));
  ByteReader in(bytes);
  for (double* number : numbers) NWC_TRY(get(&in, number));
  return in.expect_end("message");
}

}  // namespace

Status relay(Ranks& ranks, std::span<double* const> numbers, const std::function<void()>& add) {
  if (!ranks.first()) NWC_TRY(receive_numbers(ranks, ranks.rank() - 1, numbers));
  add();
  if (ranks.alone()) return {};
  NWC_TRY(send_numbers(ranks, ranks.last() ? 0 : ranks.rank() + 1, numbers));
  return ranks.first() ? receive_numbers(ranks, ranks.size() - 1, numbers) : Status();
}

}  // namespace nwc
