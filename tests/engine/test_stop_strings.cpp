#include <gtest/gtest.h>

#include "runtime/engine/stop_strings.h"

namespace nwc {
namespace {

/// The texts of the tokens that come out, "|" between them, and "." where a stop string ended the answer.
std::string run(std::vector<std::string> stops, const std::vector<std::string>& texts) {
  Result<StopStrings> stop = StopStrings::create(std::move(stops));
  EXPECT_TRUE(stop.ok());
  std::vector<StopStrings::Piece> out;
  bool stopped = false;
  for (uint32_t i = 0; i < texts.size() && !stopped; ++i) stopped = stop->add(i, texts[i], &out);
  if (!stopped) stop->finish(&out);
  std::string result;
  for (uint32_t i = 0; i < out.size(); ++i) {
    EXPECT_EQ(out[i].token, i);  // in order, none left out
    result += out[i].text + "|";
  }
  return result + (stopped ? "." : "");
}

TEST(StopStrings, CutTheTextInFrontOfTheFirst) {
  EXPECT_EQ(run({"END"}, {"a", "b", "END", "c"}), "a|b|.");
  EXPECT_EQ(run({"END"}, {"a", "xE", "N", "Dy"}), "a|x|.");
  EXPECT_EQ(run({"END"}, {"a", "xE", "N", "y"}), "a|xE|N|y|");
  EXPECT_EQ(run({"END"}, {"a", "E", "N"}), "a|E|N|");
  EXPECT_EQ(run({"aab"}, {"a", "a", "a", "b"}), "a|.");
  EXPECT_EQ(run({"END", "\n\n"}, {"a\n", "\nEND"}), "a|.");
  EXPECT_EQ(run({"b", "abc"}, {"x", "abc"}), "x|a|.");     // ends first
  EXPECT_EQ(run({"bc", "abc"}, {"x", "a", "bc"}), "x|.");  // the longer one of those that end together
  EXPECT_EQ(run({"stop"}, {"", "st", "", "op"}), "|.");    // tokens without text
  EXPECT_EQ(run({"\xc3\xa4"}, {"x\xc3", "\xa4"}), "x|.");  // a character in two tokens
  EXPECT_EQ(run({}, {"a", "b"}), "a|b|");
}

TEST(StopStrings, TokensComeAsSoonAsTheyAreDecided) {
  StopStrings stop = *StopStrings::create({"END"});
  std::vector<StopStrings::Piece> out;
  EXPECT_FALSE(stop.add(0, "a", &out));
  EXPECT_EQ(out.size(), 1u);
  EXPECT_FALSE(stop.add(1, "bE", &out));
  EXPECT_EQ(out.size(), 1u);  // held: the E may begin the stop string
  EXPECT_FALSE(stop.add(2, "E", &out));
  EXPECT_EQ(out.size(), 2u);
  EXPECT_FALSE(stop.add(3, "x", &out));
  EXPECT_EQ(out.size(), 4u);
}

TEST(StopStrings, Limits) {
  EXPECT_EQ(StopStrings::create({""}).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(StopStrings::create({std::string(1025, 'x')}).status().code(), StatusCode::kLimit);
  EXPECT_EQ(StopStrings::create(std::vector<std::string>(65, "x")).status().code(), StatusCode::kLimit);
  EXPECT_TRUE(StopStrings::create(std::vector<std::string>(64, std::string(1024, 'x'))).ok());
}

}  // namespace
}  // namespace nwc
