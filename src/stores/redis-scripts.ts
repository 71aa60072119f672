/** The format of all that is stored. A newer one is not touched. */
export const FORMAT = "1";

/*
 * A document is text of three lines: version, owner as JSON or nothing, body as JSON. It is never parsed here beyond
 * these lines. The last version in a tag is in `meta`, which outlives all documents; the next one is the time, in
 * microseconds, if that is more: so it is higher even than versions of which a failover has lost the memory. The members
 * of `index` are `:id` and, with an owner, `"owner"id`: as JSON no owner is the beginning of another.
 *
 * KEYS: for each tag meta and index, then one for each member. ARGV: number of the call, format, number of tags, then
 * for each group its size and for each member its tag, id, expected version, owner and body: nothing to check only, null
 * to delete.
 */
export const COMMIT = `
local time = redis.call('TIME')
local micros = time[1] * 1000000 + time[2]
local reply = { ARGV[1], math.floor(micros / 1000) }
local tags = tonumber(ARGV[3])
for tag = 1, tags do
  local format = redis.call('HGET', KEYS[2 * tag - 1], 'format') or 'missing'
  if format ~= ARGV[2] then return redis.error_reply('KEYSTILE ' .. format) end
end
local member, at = 2 * tags, 3
while at < #ARGV do
  local size = tonumber(ARGV[at + 1])
  local found, holds = {}, true
  for m = 1, size do
    found[m] = redis.call('GET', KEYS[member + m])
    local version = found[m] and string.match(found[m], '^%d+') or '0'
    if version ~= ARGV[at + 5 * m - 1] then holds = false end
  end
  local result = { holds and 1 or 0 }
  for m = 1, size do
    local tag, id, expected, owner, body = unpack(ARGV, at + 5 * m - 3, at + 5 * m + 1)
    if not holds then
      result[m + 1] = found[m]
    elseif body == '' then
      result[m + 1] = tonumber(expected)
    else
      local key, meta, index = KEYS[member + m], KEYS[2 * tag - 1], KEYS[2 * tag]
      local owned = found[m] and string.match(found[m], '^%d+\\n([^\\n]*)') or ''
      if owned ~= '' and (owned ~= owner or body == 'null') then redis.call('ZREM', index, owned .. id) end
      if body == 'null' then
        redis.call('ZREM', index, ':' .. id)
        redis.call('DEL', key)
        result[m + 1] = 0
      else
        result[m + 1] = math.max((redis.call('HGET', meta, 'version') or 0) + 1, micros)
        local version = string.format('%.0f', result[m + 1])
        redis.call('HSET', meta, 'version', version)
        if not found[m] then redis.call('ZADD', index, 0, ':' .. id) end
        if owner ~= '' and owner ~= owned then redis.call('ZADD', index, 0, owner .. id) end
        redis.call('SET', key, version .. '\\n' .. owner .. '\\n' .. body)
      end
    end
  end
  reply[#reply + 1] = result
  member, at = member + size, at + 1 + 5 * size
end
-- Changes nothing. It fails where nothing was written above and nothing could be: what a replica says, or a primary
-- without the replicas it must have, is not to be believed.
redis.call('HDEL', KEYS[1], '')
return reply`;

/** KEYS: for each tag meta and index. ARGV: number of the call, format, two bounds, and how many members at most. */
export const RANGE = `
local reply, upper = { ARGV[1] }, ARGV[4]
for n = 1, #KEYS / 2 do
  local format = redis.call('HGET', KEYS[2 * n - 1], 'format') or 'missing'
  if format ~= ARGV[2] then return redis.error_reply('KEYSTILE ' .. format) end
  local found = redis.call('ZRANGEBYLEX', KEYS[2 * n], ARGV[3], upper, 'LIMIT', 0, ARGV[5])
  -- As many as are wanted: of the other tags only what comes before the last of them is of use.
  if #found == tonumber(ARGV[5]) then upper = '[' .. found[#found] end
  reply[n + 1] = found
end
redis.call('HDEL', KEYS[1], '') -- as above
return reply`;

/** KEYS: the meta of each tag. ARGV: number of the call, and the format, if it is to be set where there is none. */
export const SETUP = `
local memory = redis.pcall('INFO', 'memory')
local reply = { ARGV[1], type(memory) == 'string' and string.match(memory, 'maxmemory_policy:([%w-]+)') or 'unknown' }
for n, meta in ipairs(KEYS) do
  if ARGV[2] then redis.call('HSETNX', meta, 'format', ARGV[2]) end
  reply[n + 2] = redis.call('HGET', meta, 'format')
end
return reply`;
