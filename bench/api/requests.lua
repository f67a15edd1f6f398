-- Requests of wrk from lists: lines of "method path token body" in the file that BENCH_REQUESTS names.
-- In a body, @NOW@ is the time, so that each activity is later than the one before it.
local requests = {}
for line in io.lines(os.getenv("BENCH_REQUESTS")) do
  local method, path, token, body = line:match("^(%S+) (%S+) (%S+) ?(.*)$")
  requests[#requests + 1] = {
    method = method,
    path = path,
    body = body ~= "" and body or nil,
    headers = { ["Authorization"] = "token " .. token, ["Content-Type"] = "application/json", ["Accept"] = os.getenv("BENCH_ACCEPT") },
  }
end
local at = 0
function request()
  at = at % #requests + 1
  local wanted = requests[at]
  local body = wanted.body and wanted.body:gsub("@NOW@", os.date("!%Y-%m-%dT%H:%M:%S.000000Z"))
  return wrk.format(wanted.method, wanted.path, wanted.headers, body)
end
