/** The format of all that is stored. A newer one is not touched. */
export const FORMAT = "1";

/*
 * A document is a hash of `head`, its version and its owner as JSON or nothing with a space between, and `body`, which is
 * not looked at here: apart, because a script pays for each byte that it reads. Whatever is written of a group gets one
 * version, the time in microseconds, or more than any of its documents had: so it is higher even than versions of which a
 * failover has lost the memory. The highest one of the deleted documents of a tag is in `meta`, which outlives them. The
 * members of `index` are `:id` and, with an owner, `"owner"id`: as JSON no owner is the beginning of another.
 *
 * KEYS: a meta that tells the format, which all tags of a server get at once; then one for each member, and after it meta
 * and index of its tag if the group has them. ARGV: number of the call, format, a plan, and for each member its body:
 * nothing to check only, null to delete. The plan has a line for the size of each group, negative if it has its indexes, and
 * one for each member, the head that it expects but with the owner that it is to have.
 *
 * Of each group that was written the reply has the version, of others head and body of each member. If indexes change of
 * groups that do not have theirs, nothing is written and there is no time in the reply.
 */
export const COMMIT = `
local call = redis.call
local time = call('TIME')
local micros = time[1] * 1000000 + time[2]
local reply = { ARGV[1], math.floor(micros / 1000) }
local format = call('HGET', KEYS[1], 'format') or 'missing'
if format ~= ARGV[2] then return redis.error_reply('KEYSTILE ' .. format) end

local groups, keys, wanted, found, n, at = {}, {}, {}, {}, 0, 2
local lines = string.gmatch(ARGV[3], '[^\\n]+')
for line in lines do
  local size, step = tonumber(line), 1
  if size < 0 then size, step = -size, 3 end
  local holds, version = true, micros
  for m = n + 1, n + size do
    local head, body, there = lines(), ARGV[m + 3], call('HGET', KEYS[at], 'head')
    local expected = string.match(head, '^%-?%d+')
    if there ~= head and expected ~= (there and string.match(there, '^%d+') or '0') then holds = false end
    if holds and body ~= '' and (there ~= head or body == 'null') then
      if step == 1 then return { ARGV[1] } end
      if not there then version = math.max(version, (call('HGET', KEYS[at + 1], 'version') or 0) + 1) end
    end
    version = math.max(version, expected + 1)
    keys[m], wanted[m], found[m] = at, head, there
    at = at + step
  end
  groups[#groups + 1] = { size, holds and version }
  n = n + size
end

local function setIndexes(key, head, there, isDeleted)
  local meta, index = KEYS[key + 1], KEYS[key + 2]
  local id = string.sub(KEYS[key], #meta - 3) -- it ends in {tag}.meta, this one in {tag}:id
  local owned, owner = string.match(there or '', ' (.+)'), string.match(head, ' (.+)')
  if owned then call('ZREM', index, owned .. id) end
  if isDeleted then
    call('ZREM', index, ':' .. id)
    local highest = math.max(call('HGET', meta, 'version') or 0, string.match(there or '0', '^%d+'))
    call('HSET', meta, 'version', string.format('%.0f', highest))
  else
    call('ZADD', index, 0, ':' .. id)
    if owner then call('ZADD', index, 0, owner .. id) end
  end
end

n = 0
for g, group in ipairs(groups) do
  local size, version = unpack(group)
  local text = version and string.format('%.0f', version)
  local result = version or {}
  for m = n + 1, n + size do
    local key, head, there, body = keys[m], wanted[m], found[m], ARGV[m + 3]
    if not version then
      result[#result + 1] = there
      result[#result + 1] = there and call('HGET', KEYS[key], 'body')
    elseif body ~= '' then
      if there ~= head or body == 'null' then setIndexes(key, head, there, body == 'null') end
      if body == 'null' then
        call('DEL', KEYS[key])
      else
        call('HSET', KEYS[key], 'head', text .. string.match(head, ' .*'), 'body', body)
      end
    end
  end
  reply[g + 2], n = result, n + size
end
-- Changes nothing. It fails where nothing was written above and nothing could be: what a replica says, or a primary
-- without the replicas it must have, is not to be believed.
call('HDEL', KEYS[1], '')
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
