#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "runtime/base/exceptions.h"

namespace nwc {
namespace {

/// What guarded() makes of an exception.
template <typename F>
std::pair<StatusCode, std::string> caught(F&& f) {
  std::pair<StatusCode, std::string> result{StatusCode::kOk, ""};
  const bool ok = guarded(f, [&](StatusCode code, const char* text) { result = {code, text}; });
  EXPECT_EQ(ok, result.first == StatusCode::kOk);
  return result;
}

TEST(Exceptions, BecomeErrors) {
  EXPECT_EQ(caught([] {}).first, StatusCode::kOk);
  EXPECT_EQ(caught([] { throw std::bad_alloc(); }),
            std::make_pair(StatusCode::kOutOfMemory, std::string("out of memory")));
  EXPECT_EQ(caught([] { out_of_memory(); }).first, StatusCode::kOutOfMemory);
  EXPECT_EQ(caught([] { std::vector<int>().reserve(SIZE_MAX / 2); }).first, StatusCode::kOutOfMemory);
  EXPECT_EQ(caught([] { throw std::logic_error("why"); }), std::make_pair(StatusCode::kInternal, std::string("why")));
  EXPECT_EQ(caught([] { throw 7; }), std::make_pair(StatusCode::kInternal, std::string("unknown exception")));
}

TEST(Exceptions, TheFirstIsCarriedAndThenForgotten) {
  CarriedException carried;
  EXPECT_TRUE(carried.run([] {}));
  carried.rethrow();
  EXPECT_FALSE(carried.run([] { throw std::bad_alloc(); }));
  EXPECT_FALSE(carried.run([] { throw std::logic_error("later"); }));
  EXPECT_THROW(carried.rethrow(), std::bad_alloc);
  carried.rethrow();
}

}  // namespace
}  // namespace nwc
