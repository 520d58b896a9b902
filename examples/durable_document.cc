// A document that several people edit: one object orders the edits, keeps them, and tells all
// editors of each once it is safe.
#include <cstdio>
#include <filesystem>
#include <string>
#include <vector>

#include "edge/base/errors.h"
#include "edge/durable/host.h"

namespace {

using Editor = edge::rpc::Stub<void(int64_t version, std::string text)>;

class Document : public edge::durable::Object {
 public:
  explicit Document(edge::durable::Context& ctx) : Object(ctx) {
    sql().Exec(
        "CREATE TABLE IF NOT EXISTS edits (version INTEGER PRIMARY KEY, at INTEGER, gone INTEGER, "
        "text TEXT)");
    for (auto& [at, gone, text] : sql().Exec<int64_t, int64_t, std::string>(
             "SELECT at, gone, text FROM edits ORDER BY version")) {
      Apply(at, gone, text);
    }
  }
  void Join(Editor editor) { editors_.push_back(std::move(editor)); }

  // Replaces `gone` bytes at `at`. `seen` is the version that the editor had before its eyes.
  int64_t Edit(int64_t seen, int64_t at, int64_t gone, std::string_view text) {
    if (seen != version_) throw edge::Aborted("the document is at version {} by now", version_);
    if (at < 0 || gone < 0 || at + gone > static_cast<int64_t>(text_.size())) {
      throw edge::OutOfRange("{} bytes at {} of {}", gone, at, text_.size());
    }
    sql().Exec("INSERT INTO edits VALUES (?, ?, ?, ?)", version_ + 1, at, gone, text);
    Apply(at, gone, text);
    for (Editor& editor : editors_) editor(version_, text_).Ignore();
    return version_;
  }
  std::string Text() { return text_; }
  using Rpc = edge::rpc::Methods<&Document::Join, &Document::Edit, &Document::Text>;

 private:
  void Apply(int64_t at, int64_t gone, std::string_view text) {
    text_.replace(static_cast<size_t>(at), static_cast<size_t>(gone), text);
    ++version_;
  }
  std::string text_;
  int64_t version_ = 0;
  std::vector<Editor> editors_;
};

edge::Status Run(const std::string& directory) {
  EDGE_ASSIGN_OR_RETURN(auto executor, edge::Executor::Create({.threads = 2}));
  EDGE_ASSIGN_OR_RETURN(auto relay, edge::srs::Relay::Open({.directory = directory}));
  EDGE_ASSIGN_OR_RETURN(auto host, edge::durable::Host::Create(*executor, *relay));
  EDGE_ASSIGN_OR_RETURN(auto documents, host->AddNamespace<Document>("DOCS"));
  std::vector<std::string> seen;  // of the editor, on its loop
  auto document = documents.Get("plan");
  auto editor = edge::RunOn(executor->loop(0), [&seen] {
    return Editor([&seen](int64_t, std::string text) { seen.push_back(std::move(text)); });
  });
  EDGE_RETURN_IF_ERROR(document.Call<&Document::Join>(editor).Wait());
  EDGE_RETURN_IF_ERROR(document.Call<&Document::Edit>(0, 0, 0, "Hello, moon").Wait().status());
  EDGE_RETURN_IF_ERROR(document.Call<&Document::Edit>(1, 7, 4, "world").Wait().status());
  const auto late = document.Call<&Document::Edit>(1, 0, 5, "Bye").Wait();  // it saw version 1
  EDGE_ASSIGN_OR_RETURN(const std::string text, document.Call<&Document::Text>().Wait());
  std::printf("%s; late edit: %s\n", text.c_str(), late.status().ToString().c_str());
  if (text != "Hello, world" || late.ok()) return edge::Internal("the edits were mixed up");
  while (edge::RunOn(executor->loop(0), [&] { return seen.size(); }) < 2) {
  }
  return seen.back() == text ? edge::OkStatus() : edge::Internal("the editor saw something else");
}

}  // namespace

int main() {
  std::string directory = std::filesystem::temp_directory_path() / "edge-document-XXXXXX";
  if (mkdtemp(directory.data()) == nullptr) return 1;
  const edge::Status status = Run(directory);
  std::filesystem::remove_all(directory);
  if (!status.ok()) std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
