#include "server/security/token_file.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace spotlight::server {
namespace {

const std::string kA(64, 'a'), kB(64, 'B');

std::string Entry(const std::string& fields) {
  return absl::StrCat(R"({"tokens": [{)", fields, "}]}");
}

std::string Error(const std::string& text) {
  return std::string(ParseTokenFile("FILE", text).status().message());
}

TEST(TokenFileTest, AnEntryHasNameDigestsScopesAndLimits) {
  const auto entries = ParseTokenFile(
      "FILE",
      absl::StrCat(
          R"({"tokens": [{"name": "search-1", "sha256": ")", kA,
          R"(", "scopes": ["generate"], "requests_per_minute": 90.5, "max_concurrent": 3},)",
          R"({"name": "ops", "sha256": [")", kB, "\", \"", std::string(64, '0'),
          R"("], "scopes": ["admin", "generate"], "requests_per_minute": 5, "burst": 2, "max_priority": -7}]})"));
  ASSERT_TRUE(entries.ok()) << entries.status();
  ASSERT_EQ(entries->size(), 2u);
  const TokenEntry& search = (*entries)[0];
  EXPECT_EQ(search.caller.name, "search-1");
  EXPECT_TRUE(search.caller.may_generate);
  EXPECT_FALSE(search.caller.may_admin);
  EXPECT_EQ(search.digests[0][31], 0xaa);
  EXPECT_EQ(search.limits.requests_per_minute, 90.5);
  EXPECT_EQ(search.limits.burst, 91) << "a minute's worth unless it is told";
  EXPECT_EQ(search.limits.max_concurrent, 3);
  EXPECT_EQ(search.caller.max_priority, 0) << "who may pass others is told so";
  const TokenEntry& ops = (*entries)[1];
  EXPECT_EQ(ops.caller.max_priority, -7);
  EXPECT_TRUE(ops.caller.may_admin && ops.caller.may_generate);
  EXPECT_EQ(ops.digests.size(), 2u);
  EXPECT_EQ(ops.limits.burst, 2);
  EXPECT_EQ(ops.limits.max_concurrent, 0);
}

TEST(TokenFileTest, TheDigestIsWhatSha256sumPrints) {
  // printf %s secret | sha256sum
  const auto entries = ParseTokenFile("FILE", Entry(R"("name": "a", "scopes": ["admin"],
                       "sha256": "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b")"));
  ASSERT_TRUE(entries.ok()) << entries.status();
  EXPECT_TRUE(EqualInConstantTime((*entries)[0].digests[0], Sha256("secret")));
}

TEST(TokenFileTest, ErrorsNameTheFileTheEntryAndTheField) {
  const std::string ok = absl::StrCat(R"("name": "a", "sha256": ")", kA, R"(", "scopes": ["admin"])");
  ASSERT_TRUE(ParseTokenFile("FILE", Entry(ok)).ok());
  EXPECT_EQ(Error("{"), "FILE: is not JSON");
  EXPECT_EQ(Error(""), "FILE: is not JSON");
  EXPECT_EQ(Error("[]"), "FILE: must be {\"tokens\": [...]}");
  EXPECT_EQ(Error(R"({"tokens": []})"), "FILE: tokens: must list at least one");
  EXPECT_EQ(Error(R"({"tokens": [1]})"), "FILE: tokens[0].name: must be given, in an object");
  EXPECT_EQ(Error(Entry(R"("name": "a b")")), "FILE: tokens[0].name: must be 1 to 64 of A-Z a-z 0-9 - _ .");
  EXPECT_EQ(Error(Entry(R"("name": "a")")), "FILE: tokens[0].sha256: must be given");
  EXPECT_EQ(Error(Entry(R"("name": "a", "sha256": "12")")),
            "FILE: tokens[0].sha256: must be 64 hexadecimal digits, or a list of such");
  EXPECT_EQ(Error(Entry(absl::StrCat(R"("name": "a", "scopes": ["root"], "sha256": ")", kA, "\""))),
            "FILE: tokens[0].scopes: must be a list of \"generate\", \"admin\" or both");
  EXPECT_EQ(Error(Entry(ok + R"(, "burst": 3)")), "FILE: tokens[0].burst: needs requests_per_minute");
  EXPECT_EQ(Error(Entry(ok + R"(, "requests_per_minute": 0)")),
            "FILE: tokens[0].requests_per_minute: must be a number above 0 and at most 1e+09");
  EXPECT_EQ(Error(Entry(ok + R"(, "max_concurrent": 0)")),
            "FILE: tokens[0].max_concurrent: must be a whole number of 1 to 1000000");
  for (const char* priority : {"101", "-101", "1.0", "true", "18446744073709551615"}) {
    EXPECT_EQ(Error(Entry(absl::StrCat(ok, R"(, "max_priority": )", priority))),
              "FILE: tokens[0].max_priority: must be a whole number of -100 to 100");
  }
  EXPECT_EQ(Error(absl::StrCat(R"({"tokens": [{)", ok, "}, {", ok, "}]}")),
            "FILE: tokens[1].name: is another's as well");
  EXPECT_EQ(Error(absl::StrCat(R"({"tokens": [{)", ok, R"(}, {"name": "b", "sha256": ")", kA,
                               R"(", "scopes": ["admin"]}]})")),
            "FILE: tokens[1].sha256: is listed twice");
}

// Somebody will paste a token where its digest belongs.
TEST(TokenFileTest, ErrorsQuoteNothingThatMayBeASecret) {
  for (const std::string& fields :
       {std::string(R"("name": "a", "token": "hunter2")"), std::string(R"("name": "a", "sha256": "hunter2")"),
        std::string(R"("name": "a", "hunter2": 1)"), std::string(R"("name": "hunter2 ")"),
        absl::StrCat(R"("name": "a", "sha256": ")", kA, R"(", "scopes": ["hunter2"])")}) {
    const std::string error = Error(Entry(fields));
    EXPECT_FALSE(error.empty()) << fields;
    EXPECT_FALSE(absl::StrContains(error, "hunter2")) << error;
  }
  EXPECT_EQ(Error(Entry(R"("name": "a", "token": "hunter2")")),
            "FILE: tokens[0].token: a token itself is not accepted here, only its sha256");
  EXPECT_FALSE(absl::StrContains(Error(R"({"tokens": hunter2})"), "hunter2"));
}

}  // namespace
}  // namespace spotlight::server
