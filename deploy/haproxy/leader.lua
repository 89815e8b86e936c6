-- Chooses the node for each new connection, and holds the connection until there is one, for 2 s at most.
-- HAProxy's own rules would look again only when a wait ends.
--
-- A node gets users if its check has passed and its UI accepts a connection now. A machine that has just
-- died still passes by its last check for some seconds.

-- Each question to a UI leaves a socket. HAProxy 2.4 and 2.6 would let Lua collect them late.
collectgarbage("setpause", 100)

-- All times are in milliseconds.
local HOLD_LIMIT = 2000
-- If the process stands still for longer than a sleep, HAProxy may wake the action up only when the inspect-delay
-- ends.
local SHORTEST_PAUSE, LONGEST_PAUSE = 10, 20
-- The time that a UI has to accept a connection. In the same network, it needs a few milliseconds.
local CONNECT_LIMIT = 400
-- One connection to a UI serves everybody who comes within this time.
local PROBE_LIFE = 100

-- By the names of the servers; see the end.
local nodes = {}

-- The node that users are on, if it is known; and the one that new connections get now.
local current, ready

-- When those who wait chose last.
local chosen_at = 0

local function now()
    local time = core.now()
    return time.sec * 1000 + time.usec / 1000
end

-- A clock that was put back must not make anybody wait for it.
local function has_passed(span, start)
    local elapsed = now() - start
    return elapsed < 0 or elapsed >= span
end

local function settle(node, accepts)
    node.is_asked = false
    node.accepts, node.known_at = accepts, now()
end

-- Asks in a task of its own: the client that needs the result may leave, and HAProxy 3.0.11 and 3.4 do not keep to
-- the limit of a connect.
local function ask(node)
    node.is_asked, node.asked_at = true, now()
    node.questions = node.questions + 1
    local question = node.questions
    core.register_task(function()
        local socket = core.tcp()
        socket:settimeout(CONNECT_LIMIT / 1000)
        local connected = socket:connect(node.address)
        socket:close()
        -- Nobody waits for a late answer any more.
        if node.is_asked and node.questions == question then settle(node, connected ~= nil) end
    end)
end

-- Whether the UI accepts a connection: true, false, or nil while it is asked.
local function accepts_a_connection(node)
    if node.is_asked then
        if not has_passed(CONNECT_LIMIT, node.asked_at) then return nil end
        settle(node, false)
    elseif has_passed(PROBE_LIFE, node.known_at) then
        ask(node)
        return nil
    end
    return node.accepts
end

-- The nodes that may get users, the best one first.
local function candidates(txn)
    -- The old process after a reload counts no server as up.
    if txn.sf:stopping() == "1" then return { current } end

    local leader = txn:get_var("proc.leader")
    -- The configuration of version 0.1.0 does not have it.
    local passed = txn:get_var("proc.passed") or 0
    local best, others = {}, {}
    for name, node in pairs(nodes) do
        -- A server that was not checked yet is up, too.
        local was_checked = node == current or name == leader or passed & node.bit ~= 0
        if was_checked and txn.sf:srv_is_up("role/" .. name) == "1" then
            -- All users stay on one node while it is up, also if another one answers 200 as well.
            if node == current then
                table.insert(best, 1, node)
            elseif name == leader then
                table.insert(best, node)
            else
                table.insert(others, node)
            end
        end
    end
    for _, node in ipairs(others) do table.insert(best, node) end
    return best
end

local function first_that_accepts(list)
    for _, node in ipairs(list) do
        local accepts = accepts_a_connection(node)
        if accepts then return node end
        if accepts == nil then return nil end
    end
end

local function first_that_has_accepted(list, since)
    for _, node in ipairs(list) do
        if node.accepts and node.known_at >= since then return node end
    end
end

local function choose(txn)
    local list = candidates(txn)
    ready = first_that_accepts(list)
    if list[1] ~= current then current = ready end
end

core.register_action("find_leader", { "tcp-req", "http-req" }, function(txn)
    local start, waited, pause = now(), 0, SHORTEST_PAUSE
    choose(txn)
    while not ready do
        core.msleep(pause)
        waited = waited + pause
        -- The clock tells of sleeps that were longer. If it was put back, it tells nothing.
        if math.max(waited, now() - start) >= HOLD_LIMIT then
            -- It is too late for a question, but an answer may have come during a sleep that was lost.
            local node = first_that_has_accepted(candidates(txn), start)
            if node then txn:set_var("txn.node", node.name) end
            return
        end
        -- Those who wait choose together: with a choice each, a crowd would keep the processor busy.
        if has_passed(pause, chosen_at) then
            chosen_at = now()
            choose(txn)
        end
        -- At first it is mostly a UI that one waits for, and later a leader.
        pause = math.min(2 * pause, LONGEST_PAUSE)
    end
    txn:set_var("txn.node", ready.name)
end)

-- HAProxy 3.1.1 to 3.2.3 crash after a loop over their servers that was left before its end. This one runs
-- once, and to its end.
core.register_init(function()
    for name, server in pairs(core.backends.role.servers) do
        -- HAProxy before 2.8 has only the field, and 3.2 warns of it.
        local bit = math.tointeger(server.get_puid and server:get_puid() or server.puid)
        nodes[name] = { name = name, bit = bit, address = server:get_addr(), questions = 0, known_at = 0 }
    end
end)
